// Making elements: text is always text, attributes are set by name, listeners by function.
import { shownText } from "./escapes.js";

const SVG_TAGS = new Set(["svg", "path", "line", "rect", "circle", "g", "text", "title", "polyline"]);
const LINK_TARGET = /^(#[\w.-]*|\/(?!\/)[\w./?=&#~-]*)$/;

/**
 * Return an element. `attributes`: `class`, `onclick` and other `on…` functions, `style` as an
 * object of CSS properties, booleans, texts. Children: elements, texts, numbers, arrays; null and
 * false are left out. A child text is used as it is: show a recorded text with `recorded`.
 * Throw an error if `href` is no anchor of the page or path of the server, and for `src`.
 */
export function h(tag, attributes, ...children) {
  const isSvg = SVG_TAGS.has(tag) && tag !== "title";
  const element = isSvg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) setAttribute(element, name, value);
  appendAll(element, children);
  return element;
}

/** Return a fragment that shows a recorded text in visible characters, in one line. */
export function recorded(text) {
  return shownText(String(text ?? ""));
}

/** Return a fragment that shows a recorded text in visible characters; line ends stay. */
export function recordedLines(text) {
  return shownText(String(text ?? ""), { lines: true });
}

/** Return a button that copies a text; it says so for a moment. */
export function copyButton(text, { label = "Copy", name = label } = {}) {
  const button = h("button", { type: "button", class: "quiet copy", "aria-label": name }, label);
  button.addEventListener("click", async () => {
    const isCopied = await copyText(text);
    button.textContent = isCopied ? "Copied" : "Select and copy";
    setTimeout(() => { button.textContent = label; }, 1600);
  });
  return button;
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  appendAll(element, children);
  return element;
}

function setAttribute(element, name, value) {
  if (value == null || value === false) return;
  if (name.startsWith("on")) {
    element.addEventListener(name.slice(2), value);
  } else if (name === "style") {
    for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
  } else if (name === "src" || (name === "href" && !LINK_TARGET.test(value))) {
    throw new Error(`the page links only to itself: ${name}`);
  } else {
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

function appendAll(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) appendAll(element, child);
    else if (child != null && child !== false) element.append(child);
  }
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without the permission, as from a file in some browsers: through a selection.
    const area = h("textarea", { class: "offscreen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
