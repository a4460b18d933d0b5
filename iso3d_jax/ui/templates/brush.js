// Strokes over the cut-out: their points go to the server, which takes away or brings back.
let stroke = null;
const place = (canvas, event) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
};
element.addEventListener("pointerdown", (event) => {
  const canvas = event.target;
  if (canvas.tagName !== "CANVAS") return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  canvas.width = canvas.clientWidth; canvas.height = canvas.clientHeight;
  stroke = [place(canvas, event)];
});
element.addEventListener("pointermove", (event) => {
  if (!stroke) return;
  const canvas = event.target, box = canvas.parentElement.dataset;
  if (canvas.tagName !== "CANVAS") return;
  stroke.push(place(canvas, event));
  const pen = canvas.getContext("2d");
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = Number(box.size) * canvas.width;
  pen.strokeStyle = box.keep === "yes" ? "rgba(22,163,74,.6)" : "rgba(220,38,38,.6)";
  pen.beginPath();
  const [from, to] = stroke.slice(-2);
  pen.moveTo(from[0] * canvas.width, from[1] * canvas.height);
  pen.lineTo(to[0] * canvas.width, to[1] * canvas.height);
  pen.stroke();
});
const end = (event) => {
  if (!stroke) return;
  const box = event.target.parentElement.dataset, points = stroke;
  stroke = null;
  trigger("submit", { strokes: [{ keep: box.keep === "yes", size: Number(box.size), points }] });
};
element.addEventListener("pointerup", end);
element.addEventListener("pointercancel", () => { stroke = null; });
