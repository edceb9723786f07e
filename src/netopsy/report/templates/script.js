"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  for (const part of all("#theme, .copy, .filter")) part.hidden = false;  // what works only with a script

  // Theme: what the system says, unless the reader says otherwise. A page opened from a file may have no storage.
  const root = document.documentElement, themes = ["auto", "light", "dark"], button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("netopsy-theme"); } catch { return null; } };
  const use = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    button.querySelector("b").textContent = theme;
    try { localStorage.setItem("netopsy-theme", theme); } catch { /* it lasts as long as the page */ }
  };
  use(themes.includes(remembered()) ? remembered() : "auto");
  button.addEventListener("click", () => use(themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % 3]));

  // What lies under the pointer or has the focus, in words. Text only: nothing of the data is ever read as markup.
  const tip = document.getElementById("tip");
  let shown = null, where = null;
  const words = (part) => {
    if (part.dataset.tip) return part.dataset.tip;
    const name = part.matches("th") && part.querySelector("span");
    const cut = name && (name.scrollWidth > name.clientWidth || name.scrollHeight > name.clientHeight + 2);
    return cut ? name.textContent : "";
  };
  const title = (cell) => {
    if (cell.matches(".tiles i")) return `${cell.closest(".layer").querySelector("span").textContent}\u2002\u00b7\u2002${cell.ariaLabel}`;
    if (cell.tagName !== "TD") return "";
    const table = cell.closest("table"), head = cell.parentNode.querySelector("th[scope=row]");
    return `${head.textContent}\u2002\u00b7\u2002${table.tHead.rows[0].cells[cell.cellIndex].textContent}`;
  };
  const hide = () => {
    tip.hidden = true;
    if (shown) { shown.classList.remove("on"); shown.removeAttribute("aria-describedby"); }
    shown = null;
  };
  const place = () => {
    const at = shown.getBoundingClientRect(), box = tip.getBoundingClientRect(), edge = 8;
    where = at;
    const left = Math.min(Math.max(edge, at.left + at.width / 2 - box.width / 2), innerWidth - box.width - edge);
    const above = at.top - box.height - edge;
    tip.style.left = `${Math.max(edge, left)}px`;
    tip.style.top = `${above > edge ? above : at.bottom + edge}px`;
  };
  const show = (part) => {
    const text = part ? words(part) : "";
    if (part && part === shown) return;
    hide();
    if (!text) return;
    const strong = document.createElement("strong");
    strong.textContent = title(part);
    tip.replaceChildren(...(strong.textContent ? [strong] : []), document.createTextNode(text));
    tip.hidden = false;
    shown = part;
    part.classList.add("on");
    part.setAttribute("aria-describedby", "tip");
    place();
  };
  const PARTS = "[data-tip], .walk th";
  document.addEventListener("pointerover", (event) => show(event.target.closest(PARTS)));
  document.addEventListener("focusin", (event) => show(event.target.closest(PARTS)));
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", () => {
    if (!shown) return;
    const at = shown.getBoundingClientRect();
    if (at.top === where.top && at.left === where.left) return;  // news of a scroll that was over when it was shown
    if (shown.contains(document.activeElement)) place(); else hide();
  }, true);

  // Arrow keys walk over a table, which is one stop of the tabulator key.
  const cells = (row) => [...row.cells];
  for (const table of all(".walk")) {
    table.setAttribute("role", "grid");
    const first = table.tBodies[0].rows[0];
    if (first) first.cells[Math.min(1, first.cells.length - 1)].tabIndex = 0;
    table.tBodies[0].addEventListener("keydown", (event) => {
      const from = event.target.closest("td, th");
      if (event.key === "Escape") hide();
      const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden), last = from.parentNode.cells.length - 1;
      const [x, y] = [from.cellIndex, rows.indexOf(from.parentNode)];
      const to = {
        ArrowUp: [x, y - 1], ArrowDown: [x, y + 1], ArrowLeft: [x - 1, y], ArrowRight: [x + 1, y],
        Home: [event.ctrlKey ? x : 0, event.ctrlKey ? 0 : y],
        End: [event.ctrlKey ? x : last, event.ctrlKey ? rows.length - 1 : y],
      }[event.key];
      if (!to) return;
      event.preventDefault();
      const cell = rows[Math.min(Math.max(to[1], 0), rows.length - 1)].cells[Math.min(Math.max(to[0], 0), last)];
      from.tabIndex = -1;
      cell.tabIndex = 0;
      cell.focus({ preventScroll: true });
      cell.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  }

  // Arrow keys walk over a mosaic, line by line as the window breaks them.
  for (const mosaic of all(".mosaic")) {
    const tiles = all(".tiles i", mosaic);
    if (tiles.length) tiles[0].tabIndex = 0;
    const middle = (tile) => { const box = tile.getBoundingClientRect(); return [box.left + box.width / 2, box.top]; };
    const beside = (from, step) => {  // the nearest tile of the next line up or down
      const at = tiles.indexOf(from), [x, y] = middle(from);
      let best = from, line = null, distance = Infinity;
      for (let i = at + step; i >= 0 && i < tiles.length; i += step) {
        const [left, top] = middle(tiles[i]);
        if (top === y) continue;
        if (line !== null && top !== line) break;
        line = top;
        if (Math.abs(left - x) < distance) [best, distance] = [tiles[i], Math.abs(left - x)];
      }
      return best;
    };
    mosaic.addEventListener("keydown", (event) => {
      const from = event.target.closest(".tiles i");
      if (event.key === "Escape") hide();
      if (!from) return;
      const at = tiles.indexOf(from), own = from.parentNode.children;
      const find = {
        ArrowLeft: () => tiles[at - 1], ArrowRight: () => tiles[at + 1],
        ArrowUp: () => beside(from, -1), ArrowDown: () => beside(from, 1),
        Home: () => event.ctrlKey ? tiles[0] : own[0],
        End: () => event.ctrlKey ? tiles[tiles.length - 1] : own[own.length - 1],
      }[event.key];
      if (!find) return;
      event.preventDefault();
      const tile = find() || from;
      from.tabIndex = -1;
      tile.tabIndex = 0;
      tile.focus({ preventScroll: true });
      tile.scrollIntoView({ block: "nearest" });
    });
  }

  // Tables: sort by a click on a head, up and down; what has no value comes last either way.
  for (const table of all(".sortable")) {
    const heads = cells(table.tHead.rows[0]), body = table.tBodies[0];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keys = new Map([...body.rows].map((row) => [row, row.cells[column].dataset.sort]));
      const numeric = [...keys.values()].every((key) => !key || !Number.isNaN(Number(key)));
      body.append(...[...body.rows].sort((a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)];
        if (!x || !y) return !x - !y;
        const order = numeric ? Math.sign(x - y) || 0 : x.localeCompare(y);
        return down ? -order : order;
      }));
    }));
    const filter = table.closest("figure").querySelector("input[type=search]");
    if (filter) filter.addEventListener("input", () => {
      const part = filter.value.trim().toLowerCase();
      for (const row of body.rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(part);
      const seen = [...body.rows].find((row) => !row.hidden);
      for (const cell of all("[tabindex]", body)) cell.tabIndex = -1;
      if (seen) seen.cells[1].tabIndex = 0;
    });
  }

  // What is wider than the page fades where more follows.
  const sized = new ResizeObserver((entries) => entries.forEach((entry) => fade(entry.target)));
  const fade = (box) => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  for (const box of all(".wide")) {
    box.addEventListener("scroll", () => fade(box), { passive: true });
    sized.observe(box);
  }

  for (const copy of all(".copy")) {
    const text = copy.closest("figure").querySelector("pre");
    copy.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(text.textContent); copy.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(text); copy.textContent = "Press Ctrl+C"; }
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
  }

  // On paper everything is open.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    opened.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));
})();
