// Recorded text in characters that can be seen: the rule of recorder/escapes.py.

const PLAIN = /^[ -~\u00a1-\u00ac\u00ae-\u02ff\u0400-\u0482\u048a-\u052f\u0621-\u064a\u3001-\u3020\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e]*$/;
const PLAIN_LINES = /^[ -~\n\t\u00a1-\u00ac\u00ae-\u02ff\u0400-\u0482\u048a-\u052f\u0621-\u064a\u3001-\u3020\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e]*$/;
const NOT_PRINTABLE = /[\p{C}\p{Z}]/u;
const BLANK = /[\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0]/;
const COMBINES = /[\p{Mn}\p{Me}]/u;
const SELECTS = /[\ufe00-\ufe0f\u{e0100}-\u{e01ef}]/u;
const SYMBOL = /[\p{So}\p{Sm}]/u;
const OTHER_SYMBOL = /\p{So}/u;
const ALSO_EMOJI = /[#*0-9\u203c\u2049\u2139\u3030]/;
const SKIN_TONE = /[\u{1f3fb}-\u{1f3ff}]/u;
const ARABIC_LETTER = /[\u061b-\u064a\u066d-\u066f\u0671-\u06d5\u06e5\u06e6\u06ee\u06ef\u06fa-\u070d\u0710\u0712-\u072f\u074d-\u07a5\u07b1\u0860-\u08c9\ufb50-\ufbc2\ufbd3-\ufd3d\ufd50-\ufd8f\ufd92-\ufdc7\ufdf0-\ufdfc\ufe70-\ufe74\ufe76-\ufefc\u{1ee00}-\u{1eebb}]/u;
// The signs that join two consonants: canonical combining class 9.
const VIRAMA = /[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d3b\u0d3c\u0d4d\u0dca\u0e3a\u0eba\u0f84\u1039\u103a\u1714\u1715\u1734\u17d2\u1a60\u1b44\u1baa\u1bab\u1bf2\u1bf3\u2d7f\ua806\ua82c\ua8c4\ua953\ua9c0\uaaf6\uabed\u{10a3f}\u{11046}\u{11070}\u{1107f}\u{110b9}\u{11133}\u{11134}\u{111c0}\u{11235}\u{112ea}\u{1134d}\u{11442}\u{114c2}\u{115bf}\u{1163f}\u{116b6}\u{1172b}\u{11839}\u{1193d}\u{1193e}\u{119e0}\u{11a34}\u{11a47}\u{11a99}\u{11c3f}\u{11d44}\u{11d45}\u{11d97}]/u;
const MARKS_IN_A_ROW_MAX = 2;

/** The visible pieces of a text that comes in parts, wherever it is cut. */
export class TextEscaper {
  /** With `lines`, line ends and tabs stay. */
  constructor(lines = false) {
    this.lines = lines;
    // There is no base character yet.
    this.marks = MARKS_IN_A_ROW_MAX;
    this.before = "";
  }

  /** Return the pieces of the next part, `[isEscape, shown]`. */
  add(text) {
    if ((this.lines ? PLAIN_LINES : PLAIN).test(text)) {
      if (text === "") return [];
      this.marks = 0;
      this.before = text.at(-1);
      return [[false, text]];
    }
    const pieces = [];
    for (const character of text) {
      const piece = this.show(character);
      const last = pieces.at(-1);
      if (last && last[0] === piece[0]) last[1] += piece[1];
      else pieces.push(piece);
    }
    return pieces;
  }

  show(character) {
    if (this.lines && (character === "\n" || character === "\t")) {
      this.marks = MARKS_IN_A_ROW_MAX;
      this.before = "";
      return [false, character];
    }
    if (joinsEscape(this.before, character)) {
      this.before = character;
      return [false, character];
    }
    const isMark = COMBINES.test(character);
    this.marks = isMark ? this.marks + 1 : 0;
    const isTooMany = isMark && (this.marks > MARKS_IN_A_ROW_MAX || SELECTS.test(character));
    const isHidden = NOT_PRINTABLE.test(character) && character !== " ";
    if (isTooMany || isHidden || BLANK.test(character)) {
      // A mark that follows would combine with the escape sequence.
      this.marks = MARKS_IN_A_ROW_MAX;
      this.before = "";
      return [true, escapeSequence(character)];
    }
    this.before = character;
    return [false, character];
  }
}

/** Return the pieces of a text, `[isEscape, shown]`; with `lines`, line ends and tabs stay. */
function escapedPieces(text, lines = false) {
  return new TextEscaper(lines).add(text);
}

/** Return a text as one line of visible characters. */
export function escapedLine(text) {
  return escapedPieces(text).map((piece) => piece[1]).join("");
}

/** Return a fragment of pieces; what cannot be seen is in spans of class `esc`. */
export function fragmentOf(pieces) {
  const fragment = document.createDocumentFragment();
  for (const [isEscape, shown] of pieces) {
    if (!isEscape) {
      fragment.append(shown);
      continue;
    }
    const span = document.createElement("span");
    span.className = "esc";
    span.textContent = shown;
    fragment.append(span);
  }
  return fragment;
}

/** Return a fragment with a recorded text; what cannot be seen is in spans of class `esc`. */
export function shownText(text, { lines = false } = {}) {
  return fragmentOf(escapedPieces(text, lines));
}

function joinsEscape(before, character) {
  if (!before) return false;
  if (character === "\ufe0e" || character === "\ufe0f") {
    return SYMBOL.test(before) || ALSO_EMOJI.test(before);
  }
  if (character !== "\u200c" && character !== "\u200d") return false;
  if (VIRAMA.test(before)) return true;
  if (character === "\u200c") return ARABIC_LETTER.test(before);
  return OTHER_SYMBOL.test(before) || before === "\ufe0f" || SKIN_TONE.test(before);
}

function escapeSequence(character) {
  const names = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };
  if (names[character]) return names[character];
  const code = character.codePointAt(0);
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  if (code < 0x10000) return `\\u${code.toString(16).padStart(4, "0")}`;
  return `\\U${code.toString(16).padStart(8, "0")}`;
}
