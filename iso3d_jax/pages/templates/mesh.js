// The mesh: its file becomes the viewer's source, surfaces and wires are chosen, and the camera
// goes to where a picture was seen from.
(() => {
  const viewer = document.getElementById("mesh");
  if (!viewer) return;
  const link = document.getElementById("mesh-file");
  const said = document.getElementById("mesh-said");
  const surfaces = document.querySelectorAll("input[name=surface]");
  const wires = document.getElementById("wireframe");
  const beside = document.getElementById("beside");
  const caption = document.getElementById("beside-caption");
  const again = document.getElementById("again");
  const buttons = [...document.querySelectorAll(".thumbs button")];
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // The bytes are in the page once, in the link; browsers bound how long a data: address may be.
  fetch(link.href)
    .then((answer) => answer.blob())
    .then((blob) => { link.href = viewer.src = URL.createObjectURL(blob); })
    .catch(() => { viewer.src = link.href; });
  viewer.addEventListener("error", () => {
    said.textContent = "This browser could not draw the mesh (it needs WebGL); the file is above.";
  });

  // What the viewer calls its three.js scene; the viewer in this page is of one fixed version.
  const symbol = Object.getOwnPropertySymbols(viewer).find((s) => s.description === "scene");
  const scene = symbol && viewer[symbol];
  let parts = [];

  function variant(material, name, change) {
    const other = material.clone();
    other.toneMapped = false;
    other.onBeforeCompile = (shader) => { shader.fragmentShader = change(shader.fragmentShader); };
    other.customProgramCacheKey = () => name;
    return other;
  }
  const flat = (text) => text.replace(
    "#include <opaque_fragment>", "outgoingLight = diffuseColor.rgb;\n#include <opaque_fragment>");
  // (n + 1) / 2 in the scene's axes, as on the turntable: z up, where glTF has y up
  const normals = (text) => text.replace(
    "#include <dithering_fragment>",
    "#include <dithering_fragment>\n" +
    "gl_FragColor = vec4(inverseTransformDirection(normal, viewMatrix).zxy * 0.5 + 0.5, 1.0);");

  function isDark(material) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const pen = canvas.getContext("2d");
    if (!material.map) return false;
    pen.drawImage(material.map.image, 0, 0, 1, 1);
    const [r, g, b] = pen.getImageData(0, 0, 1, 1).data;
    return 0.3 * r + 0.59 * g + 0.11 * b < 110;
  }

  function prepare() {
    parts = [];
    scene.target.traverse((mesh) => {
      for (let above = mesh; above; above = above.parent) if (above === scene.shadow) return;
      if (!mesh.isMesh) return;
      const lit = mesh.material, dark = isDark(lit);
      const wire = new mesh.constructor(mesh.geometry, variant(lit, "wire", flat));
      Object.assign(wire.material, {
        wireframe: true, map: null, vertexColors: false, transparent: true, opacity: 0.6,
      });
      wire.visible = false;
      const unlit = variant(lit, "unlit", flat);
      parts.push({ mesh, wire, dark, lit, unlit, normals: variant(lit, "normals", normals) });
    });
    for (const part of parts) {
      for (const name of ["lit", "unlit", "normals"]) {
        Object.assign(part[name], { polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1 });
      }
      part.mesh.add(part.wire);
    }
  }

  function paint() {
    const name = [...surfaces].find((choice) => choice.checked).value;
    for (const part of parts) {
      part.mesh.material = part[name];
      part.wire.visible = wires.checked;
      part.wire.material.color.set(part.dark && name !== "normals" ? 0xffffff : 0x000000);
    }
    scene.shadow?.setIntensity?.(name === "lit" ? viewer.shadowIntensity : 0);
    scene.queueRender();
  }

  viewer.addEventListener("load", () => {
    if (!scene) return;
    prepare();
    paint();
    document.getElementById("surfaces").disabled = false;
  });
  for (const choice of [...surfaces, wires]) choice.addEventListener("change", paint);

  function look(button) {
    viewer.cameraTarget = button.dataset.target;
    viewer.fieldOfView = button.dataset.fov;
    viewer.cameraOrbit = button.dataset.orbit;
    if (still.matches) viewer.updateComplete.then(() => viewer.jumpCameraToGoal());
  }
  function choose(button) {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    const picture = button.querySelector("img");
    beside.src = picture.src;
    beside.alt = button.dataset.name;
    beside.parentElement.classList.toggle("checks", "checks" in button.dataset);
    caption.textContent = button.dataset.name;
    look(button);
  }
  const chosen = () => buttons.find((button) => button.getAttribute("aria-pressed") === "true");
  for (const button of buttons) button.addEventListener("click", () => choose(button));
  if (again) again.addEventListener("click", () => look(chosen()));

  const angle = document.getElementById("angle");
  viewer.addEventListener("camera-change", () => {
    const orbit = viewer.getCameraOrbit();
    const degrees = (radians) => Math.round((radians * 180) / Math.PI);
    const round = ((degrees(orbit.theta) % 360) + 360) % 360;
    angle.textContent = `The mesh from ${round}° round, ${90 - degrees(orbit.phi)}° up`;
  });
})();

// Each viewer has a region for a screen reader; regions are told apart by their names.
for (const viewer of document.querySelectorAll("model-viewer")) {
  viewer.shadowRoot.querySelector("[role=region]")?.setAttribute("aria-label", `Announcements: ${viewer.alt}`);
}
