"use strict";
// Blocks count from 0 in the data and from 1 on the page.
const data = JSON.parse(document.getElementById("data").textContent);
const slider = document.getElementById("block");
const colors = document.getElementById("colors");
const panels = [];  // {tokens, cost, canvas, ...} of every model on every image
const DARK = "rgba(12, 14, 18, 0.8)";
const BORDER = "rgba(255, 255, 255, 0.75)";

function make(parent, tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

// Three digits of the costliest block; all others have as many decimals, so columns line up.
const dearest = Math.max(...data.costs.flatMap((cost) => cost.macs)) / 1e9;
const DECIMALS = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(dearest))));

function gmac(macs) {
  return (macs / 1e9).toFixed(DECIMALS);
}

// Whether all patches are back for a block.
function seesAll(tokens, block) {
  return tokens.back !== null && block >= tokens.back;
}

// Steps whose result a block sees; none where all patches are back.
function stepsBefore(tokens, block) {
  return seesAll(tokens, block) ? 0 : tokens.steps.filter((step) => step.first <= block).length;
}

// Whether a patch has left for a block: the step of its leaving, or -1.
function leftAt(tokens, steps, cell) {
  if (tokens.clusters) return steps && tokens.clusters[steps - 1][cell] < 0 ? steps - 1 : -1;
  return tokens.left[cell] >= 0 && tokens.left[cell] < steps ? tokens.left[cell] : -1;
}

// Number of patches in each cluster, by its smallest patch; null where nothing was merged yet.
function clusterSizes(tokens, steps) {
  if (!tokens.clusters || !steps) return null;
  const sizes = new Map();
  for (const name of tokens.clusters[steps - 1]) {
    if (name >= 0) sizes.set(name, (sizes.get(name) || 0) + 1);
  }
  return sizes;
}

function blockOf(panel) {
  return Math.min(Number(slider.value), panel.tokens.depth) - 1;
}

function stepName(step) {
  return `${step.where} block ${step.block + 1}`;
}

function draw(panel) {
  const { tokens, canvas } = panel;
  const [rows, columns] = tokens.grid;
  const block = blockOf(panel);
  const steps = stepsBefore(tokens, block);
  const sizes = clusterSizes(tokens, steps);
  const side = tokens.patch * panel.zoom;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(panel.image, 0, 0, canvas.width, canvas.height);
  const groups = [];  // of every patch: its cluster, or whether it is there
  for (let cell = 0; cell < rows * columns; cell++) {
    const left = leftAt(tokens, steps, cell);
    const x = (cell % columns) * side, y = Math.floor(cell / columns) * side;
    groups.push(left >= 0 ? -1 : sizes ? tokens.clusters[steps - 1][cell] : 0);
    if (left >= 0) {
      context.globalAlpha = colors.checked ? 0.8 : 1;
      context.fillStyle = colors.checked ? tokens.steps[left].color : DARK;
      context.fillRect(x, y, side, side);
    } else if (sizes && sizes.get(groups[cell]) > 1) {
      context.globalAlpha = 0.6;
      context.fillStyle = `hsl(${(groups[cell] * 137.508) % 360}, 75%, 55%)`;
      context.fillRect(x, y, side, side);
    }
  }
  context.globalAlpha = 1;
  context.fillStyle = BORDER;
  for (let cell = 0; cell < rows * columns; cell++) {
    const x = (cell % columns) * side, y = Math.floor(cell / columns) * side;
    if (cell % columns && groups[cell] !== groups[cell - 1]) context.fillRect(x, y, 1, side);
    if (cell >= columns && groups[cell] !== groups[cell - columns]) context.fillRect(x, y, side, 1);
  }
  const alive = groups.filter((group) => group >= 0).length;
  const cost = data.costs[panel.cost];
  const label = `Block ${block + 1} of ${tokens.depth}: ${cost.tokens[block]} tokens, `
    + `${gmac(cost.macs[block])}\u00a0GMAC`;
  let detail = `${alive} of ${rows * columns} patches`;
  if (sizes) detail += ` in ${sizes.size} cluster${sizes.size === 1 ? "" : "s"}`;
  if (seesAll(tokens, block)) detail = `all ${alive} patches are back`;
  panel.label.textContent = label;
  panel.detail.textContent = detail;
  canvas.setAttribute("aria-label", `${label}, ${detail}`);
  panel.legend.hidden = !colors.checked;
}

// What became of the patch under the pointer.
function tell(panel, event) {
  const { tokens, canvas } = panel;
  const box = canvas.getBoundingClientRect();
  const [rows, columns] = tokens.grid;
  const column = Math.floor((event.clientX - box.left) / box.width * columns);
  const row = Math.floor((event.clientY - box.top) / box.height * rows);
  if (row < 0 || row >= rows || column < 0 || column >= columns) return;
  const cell = row * columns + column;
  let text = "stays to the end";
  if (tokens.clusters) {
    const steps = stepsBefore(tokens, blockOf(panel));
    const sizes = clusterSizes(tokens, steps);
    const size = sizes ? sizes.get(tokens.clusters[steps - 1][cell]) || 0 : 1;
    text = ["has left", "a token of its own"][size] || `in a token of ${size} patches`;
  } else if (tokens.left[cell] >= 0) {
    text = `leaves ${stepName(tokens.steps[tokens.left[cell]])}`;
  }
  panel.hover.textContent = `Row ${row + 1}, column ${column + 1}: ${text}`;
}

function addPanel(parent, model, panel, pictures) {
  const card = make(parent, "article", undefined, "card");
  make(card, "h3", model);
  const pair = make(card, "div", undefined, "pair");
  const figure = make(pair, "figure");
  const canvas = make(figure, "canvas");
  const image = pictures[panel.input];
  canvas.width = image.naturalWidth * panel.zoom;
  canvas.height = image.naturalHeight * panel.zoom;
  canvas.setAttribute("role", "img");
  const caption = make(figure, "figcaption");
  const label = make(caption, "p", "", "label");
  const detail = make(caption, "p", "", "detail");
  const hover = make(caption, "p", "", "soft hover");
  const legend = make(caption, "ul", undefined, "legend");
  for (const step of panel.tokens.left ? panel.tokens.steps : []) {
    const entry = make(legend, "li");
    make(entry, "span", undefined, "swatch").style.background = step.color;
    make(entry, "span", stepName(step));
  }
  const entry = { ...panel, canvas, image, label, detail, hover, legend };
  canvas.addEventListener("pointermove", (event) => tell(entry, event));
  canvas.addEventListener("pointerleave", () => { hover.textContent = ""; });
  panels.push(entry);
  addPredictions(pair, panel.predicted, pictures);
}

function addPredictions(parent, predicted, pictures) {
  const figure = make(parent, "figure");
  if (predicted.picture !== null) {
    const image = make(figure, "img");
    image.src = pictures[predicted.picture].src;
    image.alt = predicted.title;
  }
  const caption = make(figure, "figcaption");
  make(caption, "p", predicted.title);
  const lines = make(caption, "ul", undefined, "lines");
  for (const line of predicted.lines) {
    const entry = make(lines, "li", undefined, line.chosen ? "chosen" : "");
    if (line.color) make(entry, "span", undefined, "swatch").style.background = line.color;
    make(entry, "span", line.text, "name");
    make(entry, "span", `${(100 * line.share).toFixed(1)} %`);
  }
}

function cell(row, text, share, className) {
  const element = make(row, "td", undefined, className);
  if (text === undefined) return;
  const bar = make(element, "span", text, "bar");
  make(bar, "i").style.width = `${100 * share}%`;
}

// Costs of all models on images of one size, a row for each block.
function addTable(parent, costs) {
  const table = make(make(parent, "div", undefined, "scroll"), "table");
  const sizes = [...new Set(costs.map((cost) => cost.size.join(" x ")))].join(" or ");
  make(table, "caption", `Encoder, images of ${sizes} pixels (height x width). Tokens that enter `
    + "a block, also those of no patch: class tokens, fused ones, places that a method leaves empty; billions "
    + "of multiply-adds (GMAC) of the block and its reducer, attention included.");
  const head = make(table, "thead");
  const names = make(head, "tr"), kinds = make(head, "tr");
  make(names, "th", "Block").rowSpan = 2;
  costs.forEach((_, i) => {
    make(names, "th", data.models[i]).colSpan = 2;
    make(kinds, "th", "tokens");
    make(kinds, "th", "GMAC");
  });
  const body = make(table, "tbody");
  const mostTokens = Math.max(...costs.flatMap((cost) => cost.tokens));
  const mostMacs = Math.max(...costs.flatMap((cost) => cost.macs));
  for (let block = 0; block < Number(slider.max); block++) {
    const row = make(body, "tr");
    make(row, "th", block + 1);
    for (const { tokens, macs } of costs) {
      const has = block < tokens.length;
      cell(row, has ? tokens[block] : undefined, tokens[block] / mostTokens, "tokens");
      cell(row, has ? gmac(macs[block]) : undefined, macs[block] / mostMacs, "macs");
    }
  }
  const row = make(make(table, "tfoot"), "tr");
  make(row, "th", "Encoder");
  for (const cost of costs) {
    make(row, "td");
    make(row, "td", gmac(cost.total));
  }
}

function update() {
  const number = `${slider.value} of ${slider.max}`;
  document.getElementById("number").textContent = number;
  slider.setAttribute("aria-valuetext", `block ${number}`);
  panels.forEach(draw);
  document.querySelectorAll("tbody tr").forEach((row) => {
    row.classList.toggle("now", row.rowIndex - 1 === Number(slider.value));
  });
}

async function start() {
  const pictures = data.pictures.map((address) => {
    const picture = new Image();
    picture.src = address;
    return picture;
  });
  await Promise.all(pictures.map((picture) => picture.decode()));
  const tokens = data.images.flatMap((image) => image.panels.map((panel) => panel.tokens));
  slider.max = Math.max(...tokens.map((entry) => entry.depth));
  // The first block for which a model has taken all its steps and no model has all patches back.
  const reducing = tokens.filter((entry) => entry.steps.length);
  const done = reducing.map((entry) => Math.max(...entry.steps.map((step) => step.first + 1)));
  const backs = reducing.filter((entry) => entry.back !== null).map((entry) => entry.back);
  slider.value = done.length ? Math.min(Math.max(...done), ...backs) : 1;
  const images = document.getElementById("images");
  for (const image of data.images) {
    const section = make(images, "section");
    make(section, "h2", image.name);
    const cards = make(section, "div", undefined, "cards");
    image.panels.forEach((panel, i) => addPanel(cards, data.models[i], panel, pictures));
  }
  const costs = document.getElementById("costs");
  make(costs, "h2", "Cost by block");
  const tables = new Set(data.images.map((image) => image.panels.map((p) => p.cost).join()));
  tables.forEach((key) => addTable(costs, key.split(",").map((i) => data.costs[i])));
  const merging = tokens.every((entry) => !entry.left);
  document.getElementById("coloring").hidden = merging;
  slider.addEventListener("input", update);
  colors.addEventListener("change", update);
  update();
}

start();
