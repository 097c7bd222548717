// The episode viewer. The list is drawn from the index, an episode is unpacked when it is opened, and its tokens are coloured here.
"use strict";
(() => {
  const root = document.getElementById("viewer");
  const part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
  const index = JSON.parse(document.getElementById("viewer-index").textContent);
  const rows = index.rows.map(([name, id, problem, statement, kinds, turns, kl], number) => ({
    number, name, id, problem, statement, kinds, turns, kl, text: `${problem} ${statement}`.toLowerCase(),
    hash: `#episode=${name}/${id}`,
  }));
  const PAGE = 200; // episodes that the list draws at a time
  let shown = rows, drawn = 0, current = null, episode = null;

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.textContent = text;
    return node;
  }

  // ---- the list ----

  function entry(row) {
    const link = document.createElement("a"), solved = row.kinds.includes("solved");
    const dot = make("span", solved ? "dot solved" : "dot", "");
    dot.title = row.kinds.join(", ");
    link.href = row.hash;
    const turns = row.turns === 1 ? "1 turn" : `${row.turns} turns`;
    const side = part.order.value === "kl" && row.kl !== null ? `KL ${row.kl.toFixed(3)}` : turns;
    link.append(dot, make("span", "", row.problem), make("span", "side", side),
      make("span", "line", `${index.titles[row.name]}: ${row.statement}`));
    link.setAttribute("aria-label", `${row.problem}, ${row.kinds.join(", ")}, ${turns}, ${index.titles[row.name]}`);
    const item = document.createElement("li");
    item.append(link);
    return item;
  }

  function draw(count) {
    part.list.append(...shown.slice(drawn, count).map(entry));
    drawn = Math.max(drawn, Math.min(count, shown.length));
    part.more.hidden = drawn === shown.length;
  }

  function filter() {
    const words = part.search.value.toLowerCase().split(/\s+/), kind = part.kind.value, name = part.name.value;
    shown = rows.filter((row) => (!kind || row.kinds.includes(kind)) && (!name || row.name === name)
      && words.every((word) => row.text.includes(word)));
    if (part.order.value === "kl") shown.sort((a, b) => (b.kl ?? -Infinity) - (a.kl ?? -Infinity) || a.number - b.number);
    part.list.replaceChildren();
    drawn = 0;
    draw(PAGE);
    part.count.textContent = `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} episodes`;
    if (current && shown.length && !shown.includes(current)) go(shown[0]);
    else mark();
  }

  function mark() {
    const place = shown.indexOf(current);
    if (place >= drawn) draw(place + PAGE);
    for (const link of part.list.querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
    if (place >= 0) {
      const item = part.list.children[place], box = part.list.parentNode;
      item.firstChild.setAttribute("aria-current", "true");
      const over = item.getBoundingClientRect().top - box.getBoundingClientRect().top;
      if (over < 0 || over > box.clientHeight - item.offsetHeight) box.scrollTop += over - box.clientHeight / 3;
    }
    part.place.textContent = place < 0 ? "" : `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
    part.previous.disabled = place <= 0;
    part.next.disabled = place < 0 || place + 1 >= shown.length;
  }

  // ---- an episode ----

  const unpacked = new Map();

  function unpack(block) {
    if (!unpacked.has(block)) {
      const bytes = Uint8Array.from(atob(document.getElementById(`viewer-block-${block}`).textContent), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(block, new Response(stream).json());
    }
    return unpacked.get(block);
  }

  async function open(row) {
    current = row;
    mark();
    const found = (await unpack(Math.floor(row.number / index.block)))[row.number % index.block];
    if (row !== current) return; // another one was opened meanwhile
    episode = found;
    part.body.innerHTML = episode.html; // from a template that escapes
    part.body.querySelector("[data-part=link]").href = row.hash;
    part.stream.hidden = false;
    drawTokens();
  }

  function go(row) {
    history.replaceState(null, "", row.hash);
    open(row);
  }

  function step(by) {
    const row = shown[shown.indexOf(current) + by];
    if (row) go(row);
  }

  function follow() {
    const match = /^#episode=(.+)$/.exec(location.hash);
    if (!match) return false;
    const row = rows.find((row) => row.hash === location.hash);
    if (row) {
      open(row).then(() => {
        const top = part.article.getBoundingClientRect().top;
        if (top < 0 || top > innerHeight / 3) part.article.scrollIntoView();
      });
    } else {
      part.body.replaceChildren(make("p", "message", `There is no episode ${match[1]} on this page.`));
      part.stream.hidden = true;
    }
    return true;
  }

  // ---- its tokens ----

  // `share` takes a value to -1..1 and `value` back: how strong a colour is, and which. Scales are those of the whole page.
  const linear = (scale) => ({ share: (x) => x / scale, value: (s) => s * scale });
  const scales = index.scales;
  const measures = {
    logprob: { title: "log-prob", meaning: "log π(token): the redder, the less likely it was.",
      shares: [0, -0.25, -0.5, -0.75, -0.95], share: (x) => Math.exp(x) - 1, value: (s) => Math.log(1 + s) },
    kl: { title: "KL", meaning: "log π − log ρ: blue where the policy likes the token better than the reference does, red where less.",
      shares: [-1, -0.5, 0, 0.5, 1], ...linear(scales.kl) },
    ratio: { title: "ratio", meaning: "π after the update over π before it: blue where the token became likelier, red where less likely.",
      shares: [-1, -0.5, 0, 0.5, 1], share: (x) => Math.log(x) / scales.ratio, value: (s) => Math.exp(s * scales.ratio) },
    advantage: { title: "advantage", meaning: "What the update held of the token's turn: blue for better than expected, red for worse.",
      shares: [-1, -0.5, 0, 0.5, 1], ...linear(scales.advantage) },
    mask: { title: "sampled", meaning: "Blue tokens were sampled, and learnt from; the others were given.", shares: [1, 0], ...linear(1) },
  };
  const number = (x) => x === null ? "not finite" : (Math.abs(x) >= 100 ? x.toFixed(0) : x.toPrecision(3)).replace("-", "−");

  function colour(share) {
    const percent = Math.min(Math.abs(share), 1) * 55;
    return percent < 1 ? "" : `color-mix(in srgb, var(${share > 0 ? "--accent" : "--bad"}) ${percent.toFixed(0)}%, transparent)`;
  }

  function drawTokens() {
    const nodes = [];
    let start = 0;
    for (const [title, stop] of episode.parts) {
      nodes.push(make("h4", "", title));
      for (let t = start; t < stop; t++) {
        const text = episode.texts[t], node = make("i", episode.arrays.mask[t] ? "" : "given", text.replaceAll("\n", "↵\n") || "·");
        node.dataset.t = t;
        nodes.push(node);
      }
      start = stop;
    }
    part.tokens.replaceChildren(...nodes);
    for (const radio of root.querySelectorAll("[name=viewer-measure]")) radio.disabled = !(radio.value in episode.arrays);
    const checked = root.querySelector("[name=viewer-measure]:checked");
    if (checked.disabled) root.querySelector("[name=viewer-measure]").checked = true;
    hold(null);
    paint();
  }

  function paint() {
    const name = root.querySelector("[name=viewer-measure]:checked").value, measure = measures[name], array = episode.arrays[name];
    for (const node of part.tokens.querySelectorAll("i")) {
      const t = node.dataset.t, painted = episode.arrays.mask[t] && array[t] !== null;
      node.style.background = painted ? colour(measure.share(array[t])) : "";
    }
    part.meaning.textContent = measure.meaning;
    part.scale.replaceChildren(...measure.shares.map((share) => {
      const box = make("span", "", name === "mask" ? (share ? "sampled" : "given") : number(measure.value(share)));
      box.style.background = colour(share);
      return box;
    }));
  }

  function hold(node) {
    part.tokens.querySelector(".held")?.classList.remove("held");
    part.tip.hidden = !node;
    if (!node) return;
    node.classList.add("held");
    const t = Number(node.dataset.t), sampled = episode.arrays.mask[t];
    const lines = Object.keys(measures).filter((name) => name !== "mask" && name in episode.arrays)
      .map((name) => `${measures[name].title} ${number(episode.arrays[name][t])}`);
    part.tip.textContent = `${JSON.stringify(episode.texts[t])}, token ${episode.tokens[t]} at ${t}\n`
      + (sampled ? lines.join("\n") : "given, not sampled");
    const box = node.getClientRects()[0], frame = part.stream.getBoundingClientRect();
    part.tip.style.left = `${Math.max(0, Math.min(box.left - frame.left, frame.width - part.tip.offsetWidth))}px`;
    part.tip.style.top = `${box.bottom - frame.top + 6}px`;
  }

  // ---- what the reader does ----

  for (const control of [part.search, part.kind, part.name, part.order]) control.addEventListener("input", filter);
  part.more.addEventListener("click", () => draw(drawn + PAGE));
  part.previous.addEventListener("click", () => step(-1));
  part.next.addEventListener("click", () => step(1));
  part.down.addEventListener("click", () => part.stream.scrollIntoView());
  root.querySelector(".measures").addEventListener("change", paint);
  for (const event of ["pointerover", "click"]) {
    part.tokens.addEventListener(event, (e) => hold(e.target.closest("i")));
  }
  part.tokens.addEventListener("pointerleave", () => hold(null));
  part.tokens.addEventListener("blur", () => hold(null));
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.closest?.("input, select, textarea, .js-plotly-plot")) return;
    if (event.target === part.tokens) {
      const nodes = [...part.tokens.querySelectorAll("i")], at = nodes.findIndex((node) => node.classList.contains("held"));
      hold(nodes[Math.max(0, Math.min(nodes.length - 1, at + by))]);
    } else {
      step(by);
    }
    event.preventDefault();
  });

  filter();
  if (!follow() && rows.length) open(rows[0]);
})();
