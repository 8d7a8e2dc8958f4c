"use strict";
// Lists the queries of each gallery. Names come from files: they are only ever set as text.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 20; // queries at a time

function add(parent, tag, text, name) {
  const made = parent.appendChild(document.createElement(tag));
  if (text) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function addPicture(row, number, alt, caption, kind) {
  const figure = add(row, "figure");
  const frame = add(figure, "div", number === null ? "picture missing" : "", `picture ${kind}`);
  if (number === null) {
    frame.setAttribute("role", "img");
    frame.setAttribute("aria-label", `${alt}: picture missing`);
  } else {
    const image = add(frame, "img");
    image.src = data.pictures[number];
    image.alt = alt;
  }
  add(figure, "figcaption", caption);
}

function rankSaid(rank) {
  return rank ? `rank ${rank}` : "no kept rank";
}

function facts(query) {
  const ranks = query.slice(2, -2), metres = query[query.length - 2], positives = query[query.length - 1], said = [];
  if (ranks[0] !== null) {
    const last = rankSaid(ranks[ranks.length - 1]);
    said.push(positives === 0 ? "no right answer in the database" : "first right answer: " +
      (ranks.length > 1 ? `${rankSaid(ranks[0])} before re-ranking, ${last} after` : last));
  }
  if (metres !== null) said.push(`first answer ${metres.toLocaleString("en")} m away`);
  if (positives) said.push(`${positives} right in the database`);
  return said.join(" · ");
}

function addQuery(list, query, shown) {
  const item = add(list, "li");
  add(item, "h3", query[0]);
  add(item, "p", facts(query));
  if (!shown) return;
  const row = add(item, "div", "", "row");
  addPicture(row, shown[0], `query ${query[0]}`, "query", "");
  shown[1].forEach(([name, right, metres, number], rank) => {
    const kind = right === null ? "" : right ? "right" : "wrong";
    const mark = right === null ? "" : right ? "✓ right" : "✗ wrong";
    const words = [`${rank + 1}`, mark, metres === null ? "" : `${metres.toLocaleString("en")} m`];
    addPicture(row, number, `answer ${rank + 1}, ${kind || "not labelled"}: ${name}`, words.filter(Boolean).join("  "), kind);
  });
}

function start(gallery) {
  const run = data.runs[Number(gallery.dataset.run)];
  const list = gallery.querySelector(".queries"), status = gallery.querySelector(".status");
  const more = gallery.querySelector(".more"), search = gallery.querySelector("input");
  const filters = [...gallery.querySelectorAll(".filters button")];
  // Those with pictures first.
  const order = run.queries.map((_, number) => number);
  order.sort((a, b) => (b in run.shown) - (a in run.shown) || a - b);
  let bit = 0, found = [], listed = 0;

  function showMore() {
    const page = found.slice(listed, listed + PAGE);
    page.forEach((number) => addQuery(list, run.queries[number], run.shown[number]));
    listed += page.length;
    more.hidden = listed >= found.length;
    status.textContent = `${found.length.toLocaleString("en")} of ${run.queries.length.toLocaleString("en")} queries` +
      (listed < found.length ? `, the first ${listed} listed` : "");
  }

  function choose() {
    const words = search.value.trim().toLowerCase();
    found = order.filter((number) => (!bit || run.queries[number][1] & bit) &&
      run.queries[number][0].toLowerCase().includes(words));
    list.replaceChildren();
    listed = 0;
    filters.forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.bit) === bit)));
    showMore();
  }

  filters.forEach((button) => button.addEventListener("click", () => {
    bit = Number(button.dataset.bit);
    choose();
  }));
  search.addEventListener("input", choose);
  more.addEventListener("click", showMore);
  choose();
}

document.querySelectorAll(".gallery").forEach(start);
