"use strict";
const form = document.getElementById("filters");
form.append(document.getElementById("choices").content);
form.hidden = false;
const cards = document.getElementById("cards"), items = [...cards.children];
const found = document.getElementById("found");
const chosen = (name) => form.elements[name]?.value ?? "";
function matches({ dataset }) {
  const verdicts = dataset.verdicts.split("|"), map = chosen("method");
  const judged = map === "" ? verdicts : [verdicts[Number(map)]];
  return (!chosen("status") || chosen("status") === dataset.status)
    && (!chosen("predicted") || chosen("predicted") === dataset.predicted)
    && (!chosen("verdict") || judged.includes(chosen("verdict")));
}
let sorted = "";
function list() {
  let count = 0;
  for (const item of items) {
    item.hidden = !matches(item);
    count += !item.hidden;
  }
  if (sorted !== chosen("sort")) {
    sorted = chosen("sort");
    const sign = { sure: -1, unsure: 1 }[sorted];
    // without a number of its own an image comes last
    const key = (item) => (item.dataset.confidence ? sign * item.dataset.confidence : Infinity);
    cards.replaceChildren(...(sign ? [...items].sort((a, b) => key(a) - key(b) || items.indexOf(a) - items.indexOf(b)) : items));
  }
  found.textContent = `${count.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
}
form.addEventListener("input", list);
form.addEventListener("submit", (event) => event.preventDefault());
list();
document.documentElement.dataset.ready = "true";
