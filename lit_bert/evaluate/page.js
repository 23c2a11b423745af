"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const name = index => data.names[index];
const number = value => value.toLocaleString("en-US");
const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const byId = id => document.getElementById(id);

// Children that are strings become text nodes, never HTML.
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
const isolated = text => element("bdi", null, text);

// Words coloured by their score for one of the row's classes, and the strongest of them as a sentence.
function paint(row, choice, words, pushes) {
  const scored = row.t.filter(Array.isArray);
  const most = Math.max(1e-9, ...scored.map(piece => Math.abs(piece[1 + choice])));
  words.replaceChildren(...row.t.map(piece => {
    if (!Array.isArray(piece)) return piece;
    const score = piece[1 + choice], strength = Math.abs(score) / most;
    if (strength < .08) return piece[0];
    const word = element("span", {class: score < 0 ? "w against" : "w", title: signed(score)}, piece[0]);
    word.style.setProperty("--a", Math.round(strength * 100) + "%");
    return word;
  }));
  if (!row.k) return;
  const strongest = sign => scored
    .filter(piece => piece[1 + choice] * sign > .08 * most && /[\p{L}\p{N}\p{S}]/u.test(piece[0]))
    .sort((a, b) => (b[1 + choice] - a[1 + choice]) * sign).slice(0, 4)
    .flatMap((piece, place) => [place ? ", " : "", element("b", null, isolated(piece[0])), " " + signed(piece[1 + choice])]);
  const towards = strongest(1), against = strongest(-1);
  pushes.replaceChildren(
    "Towards ", isolated(name(row.k[choice])), ": ", ...(towards.length ? towards : ["nothing"]),
    ". Against: ", ...(against.length ? against : ["nothing"]), ".");
}

function card(row) {
  const wrong = row.y !== row.p, confidence = row.q[0][1].toFixed(2);
  const verdict = wrong
    ? ["labelled ", element("b", null, isolated(name(row.y))), ", predicted ", element("b", null, isolated(name(row.p))), " " + confidence]
    : [element("b", null, isolated(name(row.y))), ", predicted right " + confidence];
  const words = element("p", {class: "words", dir: "auto"}), pushes = element("p", {class: "pushes"});
  const made = element("article", {class: "text"},
    element("header", null, element("span", null, ...verdict), element("span", null, "row " + number(row.n))), words);
  paint(row, 0, words, pushes);
  if (row.k && row.k.length > 1) {
    const buttons = row.k.map((label, choice) => {
      const button = element("button", {type: "button", "aria-pressed": String(choice === 0)},
        choice === 0 ? "why " : "why not ", isolated(name(label)));
      button.addEventListener("click", () => {
        buttons.forEach(each => each.setAttribute("aria-pressed", String(each === button)));
        paint(row, choice, words, pushes);
      });
      return button;
    });
    made.append(element("div", {class: "asked", role: "group", "aria-label": "Colour the words by what they did for"}, ...buttons));
  }
  if (row.k) made.append(pushes);
  made.append(element("ul", {class: "probs", "aria-label": "Probabilities"}, ...row.q.map(([label, probability]) =>
    element("li", null, isolated(name(label)), " " + probability.toFixed(3)))));
  return element("li", null, made);
}

// Ten at first, more on demand.
function list(holder, rows) {
  const old = holder.nextElementSibling;
  if (old && old.classList.contains("more")) old.remove();
  holder.replaceChildren(...rows.slice(0, 10).map(card));
  if (rows.length <= 10) return;
  const button = element("button", {type: "button", class: "more"});
  const label = () => { button.textContent = `Show ${number(Math.min(20, rows.length - holder.children.length))} more`; };
  label();
  button.addEventListener("click", () => {
    const next = holder.children.length;
    holder.append(...rows.slice(next, next + 20).map(card));
    holder.children[next].tabIndex = -1;
    holder.children[next].focus({preventScroll: true});
    if (holder.children.length < rows.length) label(); else button.remove();
  });
  holder.after(button);
}

function show(label, pred) {
  const count = data.cells[`${label}-${pred}`];
  if (!count) return false;
  const rows = data.rows.filter(row => row.y === label && row.p === pred).sort((a, b) => b.q[0][1] - a.q[0][1]);
  byId("texts-title").replaceChildren(
    isolated(name(label)), label === pred ? ", predicted right" : ", predicted as ", label === pred ? "" : isolated(name(pred)),
    `: ${number(count)} ${count === 1 ? "text" : "texts"}`);
  byId("texts-note").textContent = (rows.length < count
    ? (rows.length ? `${number(rows.length)} of them are on this page, ` + (label === pred ? "the least sure. " : "the most confident. ") : "None of them is on this page. ")
    : "") + (rows.length > 1 ? "Most confident first." : "");
  byId("texts").hidden = false;
  list(byId("texts-list"), rows);
  for (const link of links) link.toggleAttribute("aria-current", false);
  const link = links.find(each => each.hash === `#cell-${label}-${pred}`);
  if (link) { link.setAttribute("aria-current", "true"); only(link); }
  return true;
}

// The address says which cell is open, so that it can be linked to and the browser's way back works.
function route() {
  const match = /^#cell-(\d+)-(\d+)$/.exec(location.hash);
  if (!match || !show(Number(match[1]), Number(match[2]))) return;
  byId("texts-title").focus({preventScroll: true});
  byId("texts").scrollIntoView();
}

// One stop of the Tab key for the whole matrix; arrows, Home and End move inside.
const links = [...document.querySelectorAll(".matrix a")];
const only = link => links.forEach(each => { each.tabIndex = each === link ? 0 : -1; });
const at = new Map(links.map(link => [link.hash.slice(6), link]));
const size = data.classes.length;
const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1], End: [0, 1]};
for (const link of links) {
  link.addEventListener("keydown", event => {
    const move = step[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    let [i, j] = link.hash.slice(6).split("-").map(Number), found = null;
    for (i += move[0], j += move[1]; i >= 0 && j >= 0 && i < size && j < size; i += move[0], j += move[1]) {
      found = at.get(`${i}-${j}`) || found;
      if (found && event.key.startsWith("Arrow")) break;
    }
    if (found) { only(found); found.focus(); }
  });
}
for (const link of document.querySelectorAll('a[href^="#cell-"]'))
  link.addEventListener("click", () => { if (link.hash === location.hash) route(); });
byId("back").addEventListener("click", event => {
  const link = links.find(each => each.getAttribute("aria-current"));
  if (link) { event.preventDefault(); link.focus(); }
});
addEventListener("hashchange", route);

for (const kind of ["errors", "suspects"])
  list(byId(`${kind}-list`), data[kind].map(index => data.rows[index]));
const first = document.querySelector(".confusions a") || links[0];
if (first) show(...first.hash.slice(6).split("-").map(Number));
route();
