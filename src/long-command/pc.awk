# Makes imap-long-command.pc: the version is read from the header, which comes first, so that the two are one.
# The template's @words@ are given as variables.

/^#define IMAP_LONG_COMMAND_VERSION_/ { version = version (version == "" ? "" : ".") $3 }
FILENAME ~ /\.pc\.in$/ {
	gsub(/@version@/, version)
	gsub(/@to_prefix@/, to_prefix)
	gsub(/@includedir@/, includedir)
	gsub(/@moduledir@/, moduledir)
	gsub(/@dovecot_includes@/, dovecot_includes)
	print
}
