// Renews the page of a run that goes on, from its file: a hidden frame reads the file again and
// hands over what it says, of which only what changed is put in. So nothing flickers, and what is
// scrolled to, open or focused stays. Frames of a file may not be looked into, but may speak.
(() => {
  const main = document.querySelector("main");
  const LOST = "No news of this run";
  const PERIOD = 2500, PATIENCE = 10000; // milliseconds
  const state = () => main.dataset.state;
  const facts = () => (({ state, renewed, within }) => ({ state, renewed, within }))(main.dataset);
  // A screen reader says the headline when it changes, so its element stays.
  const headline = document.getElementById("state");
  const renewed = () => [...main.querySelectorAll(".part")];

  if (parent !== window && location.search === "?renew") {
    const parts = Object.fromEntries(renewed().map((part) => [part.id, part.innerHTML]));
    const { className, textContent } = headline;
    parent.postMessage({ iso3d: state(), facts: facts(), headline: { className, textContent }, parts }, "*");
    return;
  }

  function words(seconds) {
    if (seconds < 60) return `${seconds} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
    return `${Math.floor(seconds / 86400)} days`;
  }
  let quiet = false;
  function tell() {
    const seconds = Math.max(0, Math.round((Date.now() - Number(main.dataset.renewed)) / 1000));
    const place = document.getElementById("age");
    if (state() !== "running") {
      place.textContent = `That was ${words(seconds)} ago.`;
      return;
    }
    place.textContent = `Last heard of the run ${words(seconds)} ago.`;
    const now = seconds > Number(main.dataset.within);
    if (now) {
      if (headline.textContent !== LOST) headline.textContent = LOST;
      document.getElementById("news").textContent =
        "It was probably ended from outside, or its machine was. What it had saved is kept: the same command goes on from there.";
    }
    quiet = now;
    main.toggleAttribute("data-lost", now);
  }

  function put(message) {
    const before = document.activeElement && document.activeElement.id;
    for (const [id, text] of Object.entries(message.parts)) {
      const part = document.getElementById(id);
      if (!part || part.told === text) continue;
      const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
      part.innerHTML = text;
      part.told = text;
      for (const one of open) document.getElementById(one)?.setAttribute("open", "");
      for (const button of part.querySelectorAll("[data-copy]")) button.hidden = false;
    }
    Object.assign(main.dataset, message.facts);
    headline.className = message.headline.className;
    const lost = Date.now() - Number(main.dataset.renewed) > 1000 * Number(main.dataset.within);
    const said = state() === "running" && lost ? LOST : message.headline.textContent;
    if (headline.textContent !== said) headline.textContent = said;
    if (before && document.activeElement.id !== before) document.getElementById(before)?.focus();
    tell();
  }

  let frame = null, misses = 0, timer = 0;
  function end() {
    if (frame) frame.remove();
    frame = null;
    clearTimeout(timer);
  }
  function next() {
    if (state() !== "running") return;
    timer = setTimeout(ask, quiet ? 10 * PERIOD : PERIOD);
  }
  function ask() {
    if (document.hidden) { next(); return; }
    frame = document.createElement("iframe");
    frame.hidden = true;
    frame.title = "news of the run";
    frame.src = location.href.replace(/[?#].*$/, "") + "?renew";
    document.body.append(frame);
    timer = setTimeout(() => {
      end();
      misses += 1;
      // Where frames of files are not allowed the page is loaded anew, as by hand.
      if (misses >= 2) location.reload(); else next();
    }, PATIENCE);
  }
  addEventListener("message", (event) => {
    if (!frame || event.source !== frame.contentWindow || !event.data || !event.data.iso3d) return;
    end();
    misses = 0;
    if (event.data.iso3d === "finished") { location.reload(); return; }
    put(event.data);
    next();
  });
  for (const part of renewed()) part.told = part.innerHTML;
  tell();
  setInterval(tell, 1000);
  next();
})();
