// Light and dark: as the system has it, or chosen.
import { h } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

/** Show the page in a theme, by default the stored one. */
export function applyTheme(theme = storedTheme()) {
  const auto = systemIsDark.matches ? "dark" : "light";
  document.documentElement.dataset.theme = theme === "auto" ? auto : theme;
}

/** Return the button that switches between the system's theme, light and dark. */
export function themeSwitch() {
  const button = h("button", { type: "button", class: "quiet theme" });
  const show = (theme) => {
    applyTheme(theme);
    button.textContent = { auto: "◐ Auto", light: "○ Light", dark: "● Dark" }[theme];
    button.setAttribute("aria-label", `Colours of the page: ${theme}. Change`);
    window.dispatchEvent(new Event("themechange"));
  };
  let theme = storedTheme();
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    storeTheme(theme);
    show(theme);
  });
  window.addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; });
  window.addEventListener("afterprint", () => show(theme));
  systemIsDark.addEventListener("change", () => show(theme));
  show(theme);
  return button;
}

function storedTheme() {
  try {
    const theme = localStorage.getItem("tokentape-theme");
    return THEMES.includes(theme) ? theme : "auto";
  } catch {
    return "auto";
  }
}

function storeTheme(theme) {
  try {
    localStorage.setItem("tokentape-theme", theme);
  } catch {
    // A page in a frame of a notebook has no storage.
  }
}
