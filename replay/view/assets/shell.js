// Commands of the terminal, quoted for a POSIX shell.

/** Return an argument as a POSIX shell reads it back unchanged. */
function shellQuoted(argument) {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;
}

/** Return the command line of a list of arguments. */
export function commandLine(argv) {
  return argv.map((argument) => shellQuoted(String(argument))).join(" ");
}
