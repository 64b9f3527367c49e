// Light and dark: as the system has it, or chosen.
import { h } from "./dom.js";

const THEMES = ["auto", "light", "dark"];

/** Return the button that switches between the system's theme, light and dark. */
export function themeSwitch() {
  const button = h("button", { type: "button", class: "quiet theme" });
  const isDark = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => {
    const auto = isDark.matches ? "dark" : "light";
    document.documentElement.dataset.theme = theme === "auto" ? auto : theme;
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
  isDark.addEventListener("change", () => show(theme));
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
