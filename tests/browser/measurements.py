"""Programs that measure a page in a browser."""

LOOK = r"""
(() => {
  const luminance = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const numbers = (color) => (color.match(/[\d.]+/g) || []).map(Number);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = numbers(getComputedStyle(each).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  let least = {contrast: 21, text: ""};
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || element.closest("svg") || !element.getClientRects().length) continue;
    const [a, b] = [numbers(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < least.contrast) least = {contrast, text: element.textContent.slice(0, 60)};
  }
  const root = document.documentElement;
  const beyond = [...document.querySelectorAll("main *")]
    .filter((e) => !e.closest("svg") && e.getBoundingClientRect().right > root.clientWidth + 0.5
      && getComputedStyle(e).clipPath === "none" && !e.closest("thead"))
    .map((e) => e.outerHTML.slice(0, 120));
  const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.innerText);
  return JSON.stringify({
    title: document.title,
    headings: texts("h1, h2, h3"),
    badges: texts(".report > .lead .badge"),
    rows: document.querySelectorAll("tr.turn").length,
    marked: texts(".text mark"),
    charts: [...document.querySelectorAll("svg")].map((e) => {
      const box = e.getBoundingClientRect();
      const strokes = [...e.querySelectorAll("path")].map((p) => p.getTotalLength());
      return {width: box.width, height: box.height, drawn: strokes.some((v) => v > 0),
              name: e.querySelector("title").textContent};
    }),
    viewport: root.clientWidth,
    width: Math.max(root.scrollWidth, document.body.scrollWidth),
    height: root.scrollHeight,
    beyond: beyond.slice(0, 5),
    least,
    background: getComputedStyle(document.body).backgroundColor,
    styled: getComputedStyle(document.body).marginTop === "0px",
    scripts: document.scripts.length,
    text: document.body.innerText.slice(0, 20000),
  });
})()
"""
