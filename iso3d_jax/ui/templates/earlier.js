// Links to the runs that this browser began earlier.
let runs = [];
try { runs = JSON.parse(localStorage.getItem("iso3d_runs") || "[]"); } catch (error) { runs = []; }
const now = new URL(location.href).searchParams.get("run");
runs = runs.filter((run) => run.id !== now && /^[\w-]{16}$/.test(run.id));
if (runs.length) {
  const line = document.createElement("p");
  line.className = "iso-note iso-earlier";
  line.append("Earlier runs of this browser: ");
  for (const run of runs) {
    const link = document.createElement("a");
    link.href = "?run=" + run.id;
    link.textContent = run.name || "picture";
    line.append(link);
  }
  element.append(line);
}
