// How numbers are written, with their units.

const WHOLE = new Intl.NumberFormat("en-US");

/** Return a whole number with thousands separators: `59,045`. */
export function whole(number) {
  return number == null ? "–" : WHOLE.format(number);
}

/** Return a count with its noun: `1 token`, `2 tokens`. */
export function counted(number, noun, plural = `${noun}s`) {
  return `${whole(number)} ${number === 1 ? noun : plural}`;
}

/** Return a number with at most `digits` decimals, `–` if it is not known. */
export function decimal(number, digits = 2) {
  if (number == null || Number.isNaN(number)) return "–";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
  const text = Math.abs(number).toFixed(digits);
  return number < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** Return a number of nats: `2.31 nats`. */
export function nats(number) {
  return number == null || Number.isNaN(number) ? "–" : `${decimal(number)} nats`;
}

/** Return a probability in percent, of a natural logarithm. */
export function percentOf(logprob) {
  if (logprob == null || Number.isNaN(logprob)) return "–";
  const percent = 100 * Math.exp(logprob);
  if (percent >= 99.95 && percent < 100) return "> 99.9 %";
  if (percent >= 10) return `${percent.toFixed(1)} %`;
  if (percent >= 0.01) return `${percent.toFixed(2)} %`;
  return percent > 0 ? "< 0.01 %" : "0 %";
}

/** Return a number of bytes: `312 bytes`, `4.5 MB`. */
export function byteSize(bytes) {
  if (bytes == null) return "–";
  if (bytes < 1000) return counted(bytes, "byte");
  const units = ["kB", "MB", "GB", "TB"];
  let size = bytes / 1000;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) { size /= 1000; unit++; }
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** Return a duration in the unit that suits it: `85 ms`, `4.70 s`, `3 min 12 s`. */
export function duration(microseconds) {
  if (microseconds == null || Number.isNaN(microseconds)) return "–";
  if (microseconds < 1000) return `${Math.round(microseconds)} µs`;
  const ms = microseconds / 1000;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Return a time in UTC: `2026-11-27 13:55 UTC`. */
export function instant(microseconds) {
  if (microseconds == null) return "–";
  const date = new Date(microseconds / 1000);
  if (Number.isNaN(date.getTime())) return "–";
  return `${date.toISOString().slice(0, 16).replace("T", " ")} UTC`;
}
