// Starting a fork on the server that has the model loaded.

/** Start a fork at a candidate of a token, and return the path of its page. */
export async function startFork(view, index, tokenId) {
  throw new Error("this page cannot start a fork");
}
