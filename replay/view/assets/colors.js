// The measures by which tokens are coloured.
import { duration, nats } from "./numbers.js";

export const METRICS = [
  { id: "surprise", label: "Surprise", format: nats, value: (tokens, i) => -tokens.logprob[i] },
  { id: "entropy", label: "Entropy", format: nats, value: (tokens, i) => tokens.entropy[i] },
  { id: "margin", label: "Margin", format: nats, value: (tokens, i) => tokens.margin[i] },
  { id: "time", label: "Time", format: duration, value: (tokens, i) => tokens.duration_us[i] },
];
