// Tool calls: what was asked, the compact result that the model saw, and the full one to unfold.
import { byteSize, counted, duration } from "./numbers.js";
import { fill, h, recorded, recordedLines } from "./dom.js";
import { loadPayload } from "./live.js";

const SHORT_RESULT = 400;

/** Return a call of a tool; its result too, unless the transcript shows that as a message. */
export function toolCall(view, call, { withResult }) {
  return h("div", { class: "call" },
    h("p", { class: "signature" }, h("b", null, recorded(call.name)), "(", argumentList(call.arguments), ")",
      !hasPayload(call) && h("span", { class: "caller" }, callerParts(call, " "))),
    withResult && (call.result ? toolResult(view, call, call.result.content)
      : h("p", { class: "muted" }, "No result is recorded.")));
}

function argumentList(text) {
  let values;
  try {
    values = JSON.parse(text);
  } catch {
    return h("code", null, recorded(text));
  }
  if (values === null || typeof values !== "object" || Array.isArray(values)) return h("code", null, recorded(text));
  return Object.entries(values).map(([name, value], at) => [at > 0 && ", ",
    h("span", { class: "muted" }, recorded(name), "="), h("code", null, recorded(JSON.stringify(value)))]);
}

/** Return a result: `content` is what the model saw; the full payload unfolds. */
export function toolResult(view, call, content) {
  const { result } = call;
  return h("div", { class: "result" },
    result.error && h("p", { class: "notice bad" }, h("b", null, "The tool failed: "), recorded(result.error)),
    // A long result scrolls within its box, also by keyboard.
    h("div", { class: "text", tabindex: content.length > SHORT_RESULT || content.split("\n").length > 8 ? "0" : null }, recordedLines(content)),
    payloadDetails(view, call),
    result.traceback && h("details", null, h("summary", null, "Traceback"), h("pre", { tabindex: "0" }, recordedLines(result.traceback))));
}

/** Return who called the tool, where it was not the model. */
function callerParts(call, before) {
  return call.caller && call.caller !== "model" ? [before, "called by ", recorded(call.caller)] : null;
}

function hasPayload({ result }) {
  return Boolean(result && (result.payload != null || result.payload_bytes || result.payload_note));
}

function payloadDetails(view, call) {
  if (!hasPayload(call)) return null;
  const { result } = call;
  const size = [byteSize(result.payload_bytes), result.payload_tokens != null && counted(result.payload_tokens, "token"),
    result.duration_us != null && `took ${duration(result.duration_us)}`].filter(Boolean).join(", ");
  const holder = h("div");
  const details = h("details", { class: "payload" },
    h("summary", null, "Full result of ", recorded(call.name), h("span", { class: "muted" }, ` ${size}`, callerParts(call, ", "))), holder);
  details.addEventListener("toggle", () => {
    if (details.open && !holder.firstChild) showPayload(view, holder, result);
  });
  return details;
}

/** Show a full result; a served page may have to fetch it. */
async function showPayload(view, holder, result) {
  let { payload: text, payload_note: note } = result;
  if (text == null && result.payload_sha256 && view.document.served) {
    fill(holder, h("p", { class: "muted" }, "Loading …"));
    try {
      ({ text, note } = await loadPayload(view, result.payload_sha256));
    } catch (error) {
      note = error.message;
    }
  }
  fill(holder, payloadParts(result, text, note));
}

function payloadParts(result, text, note) {
  return [
    text == null ? h("p", null, recorded(note || "not in the recording"))
      : h("pre", { tabindex: "0", "aria-label": "Full result" }, recordedLines(text)),
    result.tensors.length > 0 && tensorTable(result.tensors),
    result.payload_sha256 && h("p", { class: "muted" }, "sha256 ", h("code", null, recorded(result.payload_sha256))),
  ];
}

function tensorTable(tensors) {
  return h("table", { class: "tensors" },
    h("caption", null, `${counted(tensors.length, "tensor")} inspected`),
    h("thead", null, h("tr", null, ["name", "shape", "dtype", "sha256"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", null, tensors.map((tensor) => h("tr", null,
      h("td", null, recorded(tensor.name)), h("td", null, (tensor.shape ?? []).join(" × ") || "scalar"),
      h("td", null, recorded(tensor.dtype)), h("td", null, h("code", null, recorded(String(tensor.sha256 ?? "").slice(0, 16))))))));
}
