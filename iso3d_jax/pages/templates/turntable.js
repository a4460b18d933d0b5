// The turntable: tabs choose a part of the video, the slider, arrows and dragging an azimuth.
(() => {
  const video = document.getElementById("turntable");
  if (!video) return;
  const stage = document.getElementById("turntable-stage");
  const slider = document.getElementById("azimuth");
  const shown = document.getElementById("azimuth-shown");
  const play = document.getElementById("play");
  const tabs = [...document.querySelectorAll("#turntable-tabs [role=tab]")];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const STEP = 10; // degrees, of an arrow key

  video.controls = false;
  for (const hidden of document.querySelectorAll(".needs-script")) hidden.hidden = false;

  const azimuth = () => ((video.currentTime / (video.duration || 1)) * 360) % 360;

  function tell(degrees) {
    const whole = Math.round(degrees) % 360;
    slider.value = whole;
    slider.setAttribute("aria-valuetext", `${whole} degrees`);
    shown.textContent = `${whole}°`;
  }

  const target = () => Number(slider.value);

  // Of seeks in quick succession Chromium may paint an early one's frame and say that it is at the
  // last: once they are over, the same frame is asked for again.
  let again = false, timer = 0;
  function go(margin) { // seconds past the edge of the frame's time
    if (!video.duration) return;
    video.currentTime = Math.min((target() / 360) * video.duration + margin, video.duration - 0.001);
  }
  function seek(degrees) {
    tell(((degrees % 360) + 360) % 360);
    again = true;
    go(0.001);
  }
  video.addEventListener("seeked", () => {
    clearTimeout(timer);
    if (again) timer = setTimeout(() => { again = false; if (video.paused) go(0.002); }, 120);
  });

  function turn(degrees) {
    video.pause();
    seek(target() + degrees);
  }

  function toggle() {
    if (video.paused) video.play().catch(() => {}); else video.pause();
  }

  function follow() {
    if (video.paused) return;
    tell(azimuth());
    requestAnimationFrame(follow);
  }
  function say() {
    play.textContent = video.paused ? "Play" : "Stop";
    if (!video.paused) follow();
  }
  video.addEventListener("play", say);
  video.addEventListener("pause", say);
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { video.pause(); seek(Number(slider.value)); });

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "ArrowRight" || event.key === "ArrowUp") turn(STEP);
    else if (event.key === "ArrowLeft" || event.key === "ArrowDown") turn(-STEP);
    else if (event.key === "Home") turn(-target());
    else if (event.key === " ") toggle();
    else return;
    event.preventDefault();
  });

  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    from = { x: event.clientX, azimuth: target(), moved: false };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from) return;
    const dx = event.clientX - from.x;
    if (Math.abs(dx) > 3) from.moved = true;
    if (!from.moved) return;
    video.pause();
    seek(from.azimuth - (dx / stage.clientWidth) * 360);
  });
  stage.addEventListener("pointerup", () => { if (from && !from.moved) toggle(); from = null; });
  stage.addEventListener("pointercancel", () => { from = null; });

  function choose(tab) {
    for (const other of tabs) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
    }
    stage.style.setProperty("--panel", tab.dataset.panel);
    stage.setAttribute("aria-labelledby", tab.id);
  }
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  }

  still.addEventListener("change", () => { if (still.matches) video.pause(); });
  if (!still.matches) video.play().catch(() => {});
  say();

  const file = document.getElementById("turntable-file");
  if (file) file.href = video.src;
})();
