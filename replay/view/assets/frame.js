// The page in a frame of a notebook, whose document has no address of its own.

/**
 * Call `go(hash)` for clicks on links to anchors if the page is in such a frame: there the browser
 * would load the notebook itself into the frame.
 */
export function followAnchorsInFrame(go) {
  if (location.protocol !== "about:") return;
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (!link || event.defaultPrevented) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });
}
