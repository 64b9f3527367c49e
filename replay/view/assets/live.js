// Following a run of the server while it goes on.

/** Follow the run of a served page: fetch what is new and call `view.update(document)`. */
export function followLive(view) {}
