"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const name = index => data.names[index];
const number = value => value.toLocaleString("en-US");
const digits = {minimumFractionDigits: data.decimals ?? 2, maximumFractionDigits: data.decimals ?? 2};
const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toLocaleString("en-US", digits);
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
  const towards = strongest(1), against = strongest(-1), [raised, lowered] = form.pushed(row.k[choice]);
  pushes.replaceChildren(
    ...raised, ...(towards.length ? towards : ["nothing"]), lowered, ...(against.length ? against : ["nothing"]), ".");
}

const pushedTo = label => [["Towards ", isolated(name(label)), ": "], ". Against: "];
const strong = text => element("b", null, isolated(text));
const names = labels => labels.flatMap((label, place) => [place ? ", " : "", strong(name(label))]);
const without = (some, others) => some.filter(each => !others.includes(each));
const probability = (row, label) => row.q.find(each => each[0] === label)[1];

// How rows are shown, by how labels are stored. `cells` are the keys of the cells that a row is in, `sure` sorts the
// rows of a cell, `title` is what those of cell i-j have in common.
const FORMS = {
  class: {
    cells: row => [`${row.y}-${row.p}`],
    sure: row => probability(row, row.p),
    verdict: row => row.y !== row.p
      ? ["labelled ", strong(name(row.y)), ", predicted ", strong(name(row.p)), " " + probability(row, row.p).toFixed(2)]
      : [strong(name(row.y)), ", predicted right " + probability(row, row.p).toFixed(2)],
    why: (row, label) => label === row.p ? "why " : "why not ",
    pushed: pushedTo,
    above: () => "",
    title: (i, j) => [isolated(name(i)), i === j ? ", predicted right" : ", predicted as ", i === j ? "" : isolated(name(j))],
  },
  classes: {
    cells: row => row.c,
    sure: row => row.s,
    verdict: row => {
      const missed = without(row.y, row.p), extra = without(row.p, row.y);
      if (!missed.length && !extra.length) return row.y.length ? [...names(row.y), ", given rightly"] : ["no label, and none given"];
      return [...(row.y.length ? ["labelled ", ...names(row.y)] : ["no label"]), ", given ", ...(row.p.length ? names(row.p) : ["none"])];
    },
    marks: row => [
      ...without(row.y, row.p).map(label => element("li", {class: "missed"}, "missed ", strong(name(label)))),
      ...without(row.p, row.y).map(label => element("li", {class: "extra"}, "wrongly given ", strong(name(label)))),
    ],
    why: (row, label) => row.p.includes(label) ? "why " : "why not ",
    pushed: pushedTo,
    above: (row, label) => data.thresholds.length ? ` ${row.p.includes(label) ? ">" : "≤"} ${data.thresholds[label].toFixed(3)}` : "",
    title: (i, j) => {
      if (i === j) return i < data.classes.length ? [isolated(name(i)), ", rightly given"] : ["No label, and none given"];
      const missed = i >= data.classes.length ? ["nothing missed"] : [isolated(name(i)), " missed"];
      const extra = j >= data.classes.length ? ["nothing wrongly given"] : [isolated(name(j)), " wrongly given"];
      if (Number.isNaN(j)) return missed;
      if (Number.isNaN(i)) return extra;
      return i < data.classes.length ? [...missed, ", ", ...extra] : [...extra, ", ", ...missed];
    },
  },
  number: {
    verdict: row => ["labelled ", strong(row.y), ", predicted ", strong(row.p), row.i ? ` (${row.i})` : "", ", off by ", strong(row.d), row.o ? ", outside the interval" : ""],
    pushed: () => [["Raised by "], ". Lowered by: "],
  },
};
const form = FORMS[data.form];

function card(row) {
  const words = element("p", {class: "words", dir: "auto"}), pushes = element("p", {class: "pushes"});
  const made = element("article", {class: "text"},
    element("header", null, element("span", null, ...form.verdict(row)), element("span", null, "row " + number(row.n))), words);
  paint(row, 0, words, pushes);
  const marks = form.marks ? form.marks(row) : [];
  if (marks.length) words.before(element("ul", {class: "marks", "aria-label": "What is wrong"}, ...marks));
  if (row.k && row.k.length > 1) {
    const buttons = row.k.map((label, choice) => {
      const button = element("button", {type: "button", "aria-pressed": String(choice === 0)},
        form.why(row, label), isolated(name(label)));
      button.addEventListener("click", () => {
        buttons.forEach(each => each.setAttribute("aria-pressed", String(each === button)));
        paint(row, choice, words, pushes);
      });
      return button;
    });
    made.append(element("div", {class: "asked", role: "group", "aria-label": "Colour the words by what they did for"}, ...buttons));
  }
  if (row.k) made.append(pushes);
  if (row.q)
    made.append(element("ul", {class: "probs", "aria-label": "Probabilities"}, ...row.q.map(([label, probability]) =>
      element("li", null, isolated(name(label)), " " + probability.toFixed(3) + form.above(row, label)))));
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

function show(key) {
  const count = Object.hasOwn(data.cells, key) && data.cells[key];
  if (!count) return false;
  const [i, j] = key.split("-").map(Number), right = i === j;
  const rows = data.rows.filter(row => form.cells(row).includes(key)).sort((a, b) => form.sure(b) - form.sure(a));
  byId("texts-title").replaceChildren(...form.title(i, j), `: ${number(count)} ${count === 1 ? "text" : "texts"}`);
  byId("texts-note").textContent = (rows.length < count
    ? (rows.length ? `${number(rows.length)} of them are on this page, ` + (right ? "the least sure. " : "the most confident. ") : "None of them is on this page. ")
    : "") + (rows.length > 1 ? "Most confident first." : "");
  byId("texts").hidden = false;
  list(byId("texts-list"), rows);
  for (const link of totals) link.toggleAttribute("aria-current", false);
  for (const link of links) link.toggleAttribute("aria-current", false);
  const link = [...links, ...totals].find(each => each.hash === `#cell-${key}`);
  if (link) link.setAttribute("aria-current", "true");
  if (links.includes(link)) only(link);
  return true;
}

// The address says which cell is open, so that it can be linked to and the browser's way back works.
function route() {
  if (!location.hash.startsWith("#cell-") || !show(location.hash.slice(6))) return;
  byId("texts-title").focus({preventScroll: true});
  byId("texts").scrollIntoView();
}

// One stop of the Tab key for the whole matrix; arrows, Home and End move inside.
const links = [...document.querySelectorAll(".matrix td:not(.total) a")];
const totals = [...document.querySelectorAll(".matrix .total a")];
const only = link => links.forEach(each => { each.tabIndex = each === link ? 0 : -1; });
const at = new Map(links.map(link => [link.hash.slice(6), link]));
const size = document.querySelectorAll(".matrix tbody tr").length;
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
byId("back")?.addEventListener("click", event => {
  const link = [...links, ...totals].find(each => each.getAttribute("aria-current"));
  if (link) { event.preventDefault(); link.focus(); }
});
addEventListener("hashchange", route);

for (const kind of ["errors", "suspects"])
  list(byId(`${kind}-list`), data[kind].map(index => data.rows[index]));
const first = document.querySelector(".confusions a") || links[0];
if (first) show(first.hash.slice(6));
route();
