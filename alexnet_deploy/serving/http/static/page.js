"use strict";

const byId = (id) => document.getElementById(id);
let engines = [];
let files = [];
let round = 0;

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

async function loadEngines() {
  const response = await fetch("engines");
  if (!response.ok) throw new Error((await response.json()).error);
  engines = await response.json();
  const first = engines.findIndex((engine) => !engine.features);
  const rows = engines.map((engine, index) => {
    const label = element("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = engine.name;
    box.checked = index === first;
    box.disabled = engine.features !== null;
    box.addEventListener("change", classify);
    const gives = engine.features ? `features of layer ${engine.features.layer}` : `${engine.classes} classes`;
    const facts = [engine.precision, engine.runtime, gives, `version ${engine.version}`];
    label.append(box, element("span", engine.name), element("small", facts.join(" · ")));
    if (engine.features) label.append(element("small", `It names no class: POST v2/models/${engine.name}/infer gives its features.`));
    if (engine.proof) label.append(element("small", engine.proof));
    return label;
  });
  byId("engines").replaceChildren(byId("engines").querySelector("legend"), ...rows);
}

function timing(header) {
  return (header || "").split(",").map((step) => {
    const [name, duration] = step.trim().split(";dur=");
    return `${name} ${Number(duration).toFixed(1)} ms`;
  }).join(" · ");
}

async function ask(engine, file) {
  const place = element("div");
  place.append(element("h3", engine.name));
  const started = performance.now();
  try {
    const url = `classify?engine=${encodeURIComponent(engine.name)}`;
    const response = await fetch(url, { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    const [row] = answer;
    if (row.error) throw new Error(row.error.replace(/^image: /, ""));
    const table = element("table");
    for (const { label, probability } of row.top) {
      const line = table.insertRow();
      const cell = line.insertCell();
      const meter = document.createElement("meter");
      meter.value = probability;
      meter.setAttribute("aria-label", label);
      cell.append(element("span", label), meter);
      line.insertCell().textContent = `${(100 * probability).toFixed(1)} %`;
    }
    const kind = engine.calibrated ? "calibrated probabilities" : "probabilities, not calibrated";
    const whole = `${(performance.now() - started).toFixed(0)} ms in all`;
    const steps = timing(response.headers.get("server-timing"));
    if (row.unknown) {
      place.append(element("p", "Unknown: the engine's rule marks this answer as one not to trust.", "unknown"));
    }
    place.append(table, element("p", `${engine.precision} · ${kind}`), element("p", `${steps} · ${whole}`));
  } catch (error) {
    place.append(element("p", error.message, "bad"));
  }
  return place;
}

async function classify() {
  const mine = ++round;
  const chosen = engines.filter((engine) => byId("engines").querySelector(`input[value="${CSS.escape(engine.name)}"]`).checked);
  const answers = byId("answers");
  for (const image of answers.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  answers.replaceChildren();
  if (!files.length) return;
  if (!chosen.length) {
    byId("status").textContent = "Choose an engine that names classes.";
    return;
  }
  let done = 0, failed = 0;
  const show = () => {
    const failures = failed ? `, ${failed} could not be` : "";
    byId("status").textContent = `${done} of ${files.length} photos classified${failures}`;
  };
  for (const file of files) {
    show();
    const article = element("article");
    const photo = element("div", "", "photo");
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(file);
    image.addEventListener("error", () => { image.hidden = true; });
    const results = element("div", "", "results");
    photo.append(image, results);
    article.append(element("h2", file.name), photo);
    answers.append(article);
    for (const engine of chosen) {
      const place = await ask(engine, file);
      if (mine !== round) return;
      results.append(place);
    }
    if (results.querySelector(".bad")) failed += 1; else done += 1;
  }
  show();
}

function take(list) {
  files = [...list];
  classify();
}

const drop = byId("drop");
byId("files").addEventListener("change", (event) => take(event.target.files));
byId("form").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dragenter", "dragover"]) {
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
drop.addEventListener("drop", (event) => take(event.dataTransfer.files));
loadEngines().catch((error) => {
  byId("status").textContent = `The engines cannot be listed: ${error.message}`;
  byId("status").className = "bad";
});
