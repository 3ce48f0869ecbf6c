"use strict";
const find = (id) => document.getElementById(id);
const D = JSON.parse(find("data").textContent);

function unpack(given) {
  if (!given) return null;
  const text = atob(given.data), bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  const strides = given.shape.map((_, k) => given.shape.slice(k + 1).reduce((a, b) => a * b, 1));
  const at = (...index) => index.reduce((sum, value, k) => sum + value * strides[k], 0);
  if (!given.most) {
    const values = new Float32Array(bytes.buffer);
    return { shape: given.shape, get: (...index) => values[at(...index)] };
  }
  const most = unpack(given.most);
  return { shape: given.shape, get: (...index) => bytes[at(...index)] / 255 * most.get(...index.slice(0, -1)) };
}

const attention = D.attention && { mean: unpack(D.attention.mean), text: unpack(D.attention.text), rollout: unpack(D.attention.rollout), heads: unpack(D.attention.heads) };
const lens = D.lens && { vocabulary: D.lens.vocabulary, words: unpack(D.lens.words), chances: unpack(D.lens.chances), answer: unpack(D.lens.answer) };
const drops = unpack(D.heads);
const pictures = D.pictures.map((given) => {
  const image = new Image();
  image.onload = () => show();
  image.src = given.source;
  return { ...given, image, occlusion: unpack(given.occlusion), placed: given.boxes.some(Boolean) };
});
const now = { picture: 0, kind: null, token: -1, layer: 0, head: "mean", view: -1, patch: -1 };
const range = (n) => [...Array(n).keys()];
const chosen = () => now.token < 0 ? range(D.tokens.length) : [now.token];

// Two digits, of small numbers three; never "-0".
function ends(n) {
  const text = n.toFixed(Math.abs(n) < .095 && n ? 3 : 2);
  return Number(text) ? text.replace("-", "−") : "0";
}


// What can be shown of the chosen picture.
function kinds() {
  const seen = pictures[now.picture], found = [];
  if (seen.occlusion) found.push(["covered", "Covered"]);
  if (attention && seen.placed) found.push(["attention", "Attention"]);
  if (lens && seen.placed) found.push(["words", "Words"]);
  return found;
}

// The number of each visual token of this picture, and where it stands among all.
function tokensOf(seen) {
  return range(seen.boxes.length).filter((k) => seen.boxes[k] && (now.view < 0 || seen.view[k] === now.view)).map((k) => [k, seen.first + k]);
}

// Amounts (or, with `mean`, values) of tokens over the cells of the map.
function paint(seen, values, mean) {
  const [rows, columns] = seen.map, map = new Float64Array(rows * columns), area = new Float64Array(rows * columns);
  const dx = seen.width / columns, dy = seen.height / rows;
  for (const [[k], value] of values) {
    const [x0, y0, x1, y1] = seen.boxes[k], whole = (x1 - x0) * (y1 - y0);
    for (let r = Math.max(0, Math.floor(y0 / dy)); r < Math.min(rows, Math.ceil(y1 / dy)); r++) {
      const down = Math.min(y1, (r + 1) * dy) - Math.max(y0, r * dy);
      for (let c = Math.max(0, Math.floor(x0 / dx)); c < Math.min(columns, Math.ceil(x1 / dx)); c++) {
        const part = down * (Math.min(x1, (c + 1) * dx) - Math.max(x0, c * dx));
        if (part <= 0) continue;
        map[r * columns + c] += value * (mean ? part : part / whole);
        area[r * columns + c] += part;
      }
    }
  }
  if (mean) for (let k = 0; k < map.length; k++) map[k] = area[k] > 1e-9 ? map[k] / area[k] : 0;
  return { rows, columns, map };
}

function attends(place) {
  const of = (t) => {
    if (now.head === "rollout") return attention.rollout.get(t, place);
    const layers = now.layer ? [now.layer - 1] : range(attention.mean.shape[0]);
    const get = now.head === "mean" ? (l) => attention.mean.get(l, t, place) : (l) => attention.heads.get(l, +now.head, t, place);
    return layers.reduce((sum, l) => sum + get(l), 0) / layers.length;
  };
  const tokens = chosen();
  return tokens.reduce((sum, t) => sum + of(t), 0) / tokens.length;
}

// The map to be drawn, and one sentence about it.
function current(seen) {
  const which = now.token < 0 ? "the whole answer" : `“${D.tokens[now.token]}”`;
  if (now.kind === "covered") {
    const [rows, columns] = seen.occlusion.shape, map = new Float64Array(rows * columns);
    for (let k = 0; k < map.length; k++) for (const t of chosen()) map[k] += seen.occlusion.get(Math.floor(k / columns), k % columns, t);
    const best = map.indexOf(Math.max(...map)), total = (list) => chosen().reduce((sum, t) => sum + list[t], 0);
    const x = Math.round((best % columns + .5) * seen.width / columns), y = Math.round((Math.floor(best / columns) + .5) * seen.height / rows);
    return { rows, columns, map, unit: " nats", text: `Covering around (${x}, ${y}) costs ${which} most: its log-probability falls by ${ends(map[best])}, from ${ends(total(D.log))}. With every picture covered it is ${ends(total(D.covered))}.` };
  }
  if (now.kind === "attention") {
    const values = tokensOf(seen).map((token) => [token, attends(token[1])]);
    const painted = paint(seen, values, false), inside = painted.map.reduce((a, b) => a + b, 0), all = values.reduce((sum, [, v]) => sum + v, 0);
    const rest = all - inside > .0005 ? `, and ${(100 * (all - inside)).toFixed(1)}% to padding around it` : "";
    const how = now.head === "rollout" ? "rolled out through all layers" : `${now.layer ? "layer " + now.layer : "all layers"}, ${now.head === "mean" ? "mean of the heads" : "head " + (+now.head + 1)}`;
    return { ...painted, unit: "", hidden: true, text: `${(100 * inside).toFixed(1)}% of the attention of ${which} goes to ${now.view < 0 ? "this picture" : "this view"}${rest} (${how}).` };
  }
  const token = now.token < 0 ? 0 : now.token, values = tokensOf(seen).map((each) => [each, lens.answer.get(now.layer, each[1], token)]);
  const painted = paint(seen, values, true), best = Math.max(0, ...values.map(([, v]) => v));
  return { ...painted, unit: "", text: `How likely each patch says “${D.tokens[token]}” ${now.layer ? "behind layer " + now.layer : "before the first layer"}: at most ${(100 * best).toFixed(best < .01 ? 3 : 1)}%.` };
}

const WARM = [214, 83, 16], COLD = [33, 102, 201];

function show() {
  const seen = pictures[now.picture];
  if (!seen.image.complete || !seen.image.naturalWidth || !now.kind) return;
  const canvas = find("map"), scale = Math.max(1, Math.min(1024, Math.max(640, seen.width)) / Math.max(seen.width, seen.height));
  const wide = canvas.width = Math.max(1, Math.round(seen.width * scale)), high = canvas.height = Math.max(1, Math.round(seen.height * scale));
  const pen = canvas.getContext("2d"), found = current(seen), most = Math.max(...found.map, 0), least = Math.min(...found.map, 0), reach = Math.max(most, -least) || 1;
  pen.imageSmoothingEnabled = scale < 4;
  pen.drawImage(seen.image, 0, 0, wide, high);
  const under = pen.getImageData(0, 0, wide, high);
  for (let k = 0; k < under.data.length; k += 4) {
    const x = (k / 4) % wide, y = Math.floor(k / 4 / wide);
    const value = found.map[Math.min(found.rows - 1, Math.floor(y * found.rows / high)) * found.columns + Math.min(found.columns - 1, Math.floor(x * found.columns / wide))] / reach;
    const grey = (under.data[k] + under.data[k + 1] + under.data[k + 2]) / 3 * .55 + 90, share = .9 * Math.abs(value) ** .8, colour = value < 0 ? COLD : WARM;
    for (let c = 0; c < 3; c++) under.data[k + c] = grey + (colour[c] - grey) * share;
  }
  pen.putImageData(under, 0, 0);
  hatch(pen, seen, scale, wide, high);
  if (now.kind === "words" && now.patch >= 0 && seen.boxes[now.patch]) {
    const [x0, y0, x1, y1] = seen.boxes[now.patch].map((v) => v * scale);
    for (const [colour, width] of [["#fff", 5], ["#111", 2]]) { pen.strokeStyle = colour; pen.lineWidth = width; pen.strokeRect(x0 + 1, y0 + 1, x1 - x0 - 2, y1 - y0 - 2); }
  }
  const rgb = (c) => `rgb(${c})`, signed = least < -1e-9;
  find("ramp").style.background = `linear-gradient(90deg, ${signed ? rgb(COLD) + ", " : ""}#a5a5a5, ${rgb(WARM)})`;
  find("least").textContent = signed ? `−${ends(reach)}${found.unit}` : "0";
  find("most").textContent = now.kind === "attention" ? "most" : now.kind === "words" ? `${(100 * most).toFixed(most < .01 ? 3 : 1)}%` : `${ends(reach)}${found.unit}`;
  find("says").textContent = found.text;
  canvas.setAttribute("aria-label", `The picture with a map over it. ${found.text}`);
  tell();
}

function hatch(pen, seen, scale, wide, high) {
  const [x0, y0, x1, y1] = seen.seen.map((v) => v * scale), cut = new Path2D();
  cut.rect(0, 0, wide, high);
  cut.rect(x0, y0, x1 - x0, y1 - y0);
  if (x0 < .5 && y0 < .5 && x1 > wide - .5 && y1 > high - .5) return;
  pen.save();
  pen.clip(cut, "evenodd");
  pen.fillStyle = "#0008";
  pen.fillRect(0, 0, wide, high);
  pen.strokeStyle = "#fffa";
  pen.lineWidth = 2;
  for (let k = -high; k < wide; k += 14) { pen.beginPath(); pen.moveTo(k, high); pen.lineTo(k + high, 0); pen.stroke(); }
  pen.restore();
}

// The table of words of the chosen patch.
function tell() {
  const seen = pictures[now.picture], words = now.kind === "words";
  find("patch").className = words ? "" : "off";
  if (!words || now.patch < 0) { find("words").replaceChildren(); find("patch-name").textContent = ""; return; }
  const place = seen.first + now.patch, box = seen.boxes[now.patch];
  find("patch-name").textContent = `Now: pixels (${box.slice(0, 2).map(Math.round)}) to (${box.slice(2).map(Math.round)}), ${seen.names[seen.view[now.patch]]}.`;
  find("words").replaceChildren(...range(lens.words.shape[0]).map((layer) => {
    const row = document.createElement("tr"), name = document.createElement("th"), cell = document.createElement("td");
    name.scope = "row";
    name.textContent = layer || "start";
    cell.textContent = range(lens.words.shape[2]).map((k) => `${lens.vocabulary[lens.words.get(layer, place, k)]} ${(100 * lens.chances.get(layer, place, k)).toFixed(0)}%`).join(",  ");
    if (layer === now.layer) row.setAttribute("aria-current", "true");
    row.append(name, cell);
    return row;
  }));
}

function chip(box, group, value, text, small, checked) {
  const label = document.createElement("label"), input = document.createElement("input"), span = document.createElement("span");
  Object.assign(input, { type: "radio", name: group, value, checked });
  span.textContent = text;
  if (small) { const more = document.createElement("small"); more.textContent = small; span.append(more); }
  label.append(input, span);
  box.append(label);
}

function option(box, value, text) {
  const made = document.createElement("option");
  Object.assign(made, { value, textContent: text });
  box.append(made);
}

// Controls that depend on what is chosen.
function arrange() {
  const seen = pictures[now.picture], known = kinds();
  if (!known.some(([kind]) => kind === now.kind)) now.kind = known.length ? known[0][0] : null;
  find("kinds").replaceChildren();
  for (const [kind, text] of known) chip(find("kinds"), "kind", kind, text, "", kind === now.kind);
  const layered = now.kind === "words" || (now.kind === "attention" && now.head !== "rollout");
  const layers = now.kind === "words" ? lens.words.shape[0] - 1 : attention ? attention.mean.shape[0] : 0;
  now.layer = Math.min(now.layer, layers);
  Object.assign(find("layer"), { max: layers, value: now.layer });
  const name = now.layer ? `${now.layer} of ${layers}` : now.kind === "words" ? "before the first" : "all, averaged";
  find("layer-name").textContent = name;
  find("layer").setAttribute("aria-valuetext", name);
  find("layer-box").className = layered ? "" : "off";
  find("head-box").className = now.kind === "attention" ? "" : "off";
  find("head").value = now.head;
  find("view-box").className = seen.names.length > 1 && now.kind !== "covered" ? "" : "off";
  if (find("view").dataset.of !== String(now.picture)) {
    find("view").dataset.of = now.picture;
    now.view = -1;
    now.patch = -1;
    find("view").replaceChildren();
    option(find("view"), -1, "all together");
    seen.names.forEach((text, k) => option(find("view"), k, text));
  }
  if (now.kind === "words" && now.patch < 0) now.patch = seen.boxes.findIndex(Boolean);
  table();
  show();
}

function table() {
  if (!drops) return;
  find("heads-box").className = "";
  const [layers, heads] = drops.shape, total = (l, h) => chosen().reduce((sum, t) => sum + drops.get(l, h, t), 0);
  const every = range(layers).flatMap((l) => range(heads).map((h) => total(l, h))), reach = Math.max(...every.map(Math.abs)) || 1;
  const buttons = [...find("heads").querySelectorAll("button")];
  if (!buttons.length) {
    const top = document.createElement("tr");
    for (const text of ["", ...range(heads).map((h) => `head ${h + 1}`)]) { const cell = document.createElement("th"); cell.scope = "col"; cell.textContent = text; top.append(cell); }
    find("heads").append(top);
    for (const l of range(layers)) {
      const row = document.createElement("tr"), name = document.createElement("th");
      name.scope = "row";
      name.textContent = `layer ${l + 1}`;
      row.append(name);
      for (const h of range(heads)) {
        const cell = document.createElement("td"), button = document.createElement("button");
        Object.assign(button, { type: "button", tabIndex: l + h ? -1 : 0 });
        button.onclick = () => choose(l, h, button);
        button.onkeydown = (event) => step(event, l, h, heads, layers);
        cell.append(button);
        row.append(cell);
        buttons.push(button);
      }
      find("heads").append(row);
    }
  }
  buttons.forEach((button, k) => {
    const value = every[k], share = Math.round(100 * Math.min(1, Math.abs(value) / reach) ** .7), l = Math.floor(k / heads), h = k % heads;
    button.textContent = ends(value);
    button.style.background = `color-mix(in srgb, ${value < 0 ? "#7fb0f0" : "#f39a5a"} ${share}%, #e6e4de)`;
    button.setAttribute("aria-label", `layer ${l + 1}, head ${h + 1}: ${ends(value)}`);
    button.setAttribute("aria-pressed", now.kind === "attention" && now.layer === l + 1 && now.head === String(h));
  });
}

function choose(l, h, button) {
  for (const other of find("heads").querySelectorAll("button")) other.tabIndex = -1;
  button.tabIndex = 0;
  if (!attention || !attention.heads || !pictures[now.picture].placed) return;
  Object.assign(now, { kind: "attention", layer: l + 1, head: String(h) });
  arrange();
}

function step(event, l, h, heads, layers) {
  const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
  if (!by) return;
  event.preventDefault();
  const next = find("heads").querySelectorAll("button")[Math.min(layers - 1, Math.max(0, l + by[0])) * heads + Math.min(heads - 1, Math.max(0, h + by[1]))];
  for (const other of find("heads").querySelectorAll("button")) other.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// The patch under a point of the picture: the smallest of the chosen views.
function patchAt(x, y) {
  const seen = pictures[now.picture], size = (k) => (seen.boxes[k][2] - seen.boxes[k][0]) * (seen.boxes[k][3] - seen.boxes[k][1]);
  const under = tokensOf(seen).map(([k]) => k).filter((k) => { const [x0, y0, x1, y1] = seen.boxes[k]; return x >= x0 && x < x1 && y >= y0 && y < y1; });
  return under.sort((a, b) => size(a) - size(b))[0] ?? -1;
}

function pick(x, y) {
  const found = patchAt(x, y);
  if (found >= 0) { now.patch = found; show(); }
}

find("map").addEventListener("click", (event) => {
  const seen = pictures[now.picture], box = find("map").getBoundingClientRect();
  pick((event.clientX - box.left) / box.width * seen.width, (event.clientY - box.top) / box.height * seen.height);
});
find("map").addEventListener("keydown", (event) => {
  const by = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  if (!by || now.kind !== "words") return;
  event.preventDefault();
  const [x0, y0, x1, y1] = pictures[now.picture].boxes[now.patch];
  pick((x0 + x1) / 2 + by[0] * (x1 - x0), (y0 + y1) / 2 + by[1] * (y1 - y0));
});

range(pictures.length).forEach((k) => chip(find("pictures"), "picture", k, String(k + 1), "", !k));
find("pictures-box").className = pictures.length > 1 ? "" : "off";
chip(find("tokens"), "token", -1, "all of it", ends(D.log.reduce((a, b) => a + b, 0)), true);
D.tokens.forEach((token, k) => chip(find("tokens"), "token", k, token, ends(D.log[k]), false));
option(find("head"), "mean", "mean of all");
option(find("head"), "rollout", "rolled out through all layers");
if (attention && attention.heads) range(attention.heads.shape[1]).forEach((k) => option(find("head"), k, `head ${k + 1}`));
find("controls").addEventListener("input", (event) => {
  const { name, id, value } = event.target;
  if (name === "kind") now.kind = value;
  else if (name === "token" || name === "picture") now[name] = +value;
  else if (id === "head") now.head = value;
  else now[id] = +value;
  const focused = name === "kind" ? value : null;
  arrange();
  if (focused) find("kinds").querySelector(`input[value=${focused}]`).focus();
});
arrange();
