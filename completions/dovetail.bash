# Completion of dovetail(1) for bash. Commands and options come from its own help, names of entries from the replica (without
# asking the server).

# The words up to the cursor, each in one piece: bash splits at = : and @ (COMP_WORDBREAKS), which names may have. cut: what readline
# does not replace of the last one, as it is before its last piece.
_dovetail_words() {
	local line=$COMP_LINE piece i

	words=() cut=
	for ((i = 0; i <= COMP_CWORD; i++)); do
		piece=${COMP_WORDS[i]}
		if ((i > 0)) && [[ -n $piece && $line == "$piece"* ]]; then
			[[ $piece == [=:@]* ]] && cut=${words[-1]}$piece || cut=${words[-1]}
			words[-1]+=$piece
		else
			line=${line#"${line%%[![:blank:]]*}"} cut=
			words+=("$piece")
		fi
		line=${line#"$piece"}
	done
}

# What may follow: the lines of standard input that begin with the word, quoted. Not compgen -W, which expands its words: whoever
# can write to the account could have a command run by a name such as $(...).
_dovetail_offer() {
	local line word before= quoted=

	case $1 in
	[\'\"]*)
		# readline quotes for the quotation mark that is there
		quoted=1 word=${1:1}
		compopt -o filenames 2>/dev/null ;;
	*)
		# without -r: takes the backslashes away
		IFS= read word <<<"$1"
		IFS= read before <<<"$cut" ;;
	esac
	while IFS= read -r line; do
		# one with a dash would be an option, watch's --exec for example
		[[ $line == "$word"* && $line != -* ]] || continue
		[ -n "$quoted" ] || printf -v line %q "${line#"$before"}"
		COMPREPLY+=("$line")
	done
}

_dovetail_options() {
	dovetail help "$1" 2>/dev/null | sed -n 's/^  \(-.,\|   \) \(--[a-z-]*\).*/\2/p'
}

# Options of the command that have a value
_dovetail_valued() {
	dovetail help "$1" 2>/dev/null | sed -n 's/^  \(-.,\|   \) \(--[a-z-]*\) [A-Z].*/\2/p'
}

_dovetail_accounts() {
	local file
	for file in "${XDG_CONFIG_HOME:-$HOME/.config}"/dovetail/*.conf; do
		[ -f "$file" ] || continue
		file=${file##*/}
		printf '%s\n' "${file%.conf}"
	done
}

_dovetail() {
	local word previous cut command= i
	local -a words account=()

	_dovetail_words
	word=${words[-1]} previous=
	((${#words[@]} < 2)) || previous=${words[-2]}
	for ((i = 1; i < ${#words[@]} - 1; i++)); do
		case ${words[i]} in
		-a|--account|-m|--mailbox|--config|-t|--timeout)
			case ${words[i]} in -a|--account|--config|-m|--mailbox)
				account+=("${words[i]}" "${words[i + 1]}") ;;
			esac
			((i++)) ;;
		-*) ;;
		*)
			[ -n "$command" ] || command=${words[i]} ;;
		esac
	done

	COMPREPLY=()
	case $previous in
	-a|--account)
		_dovetail_offer "$word" < <(_dovetail_accounts)
		return ;;
	--config|--netrc|--ca-file|-f|--file|--passphrase-file|--key-file)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return ;;
	--tls)
		mapfile -t COMPREPLY < <(compgen -W "imaps starttls none" -- "$word")
		return ;;
	esac
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_dovetail_options "${command:-help}")" -- "$word")
		return
	fi
	if [ -n "$command" ] && [[ $previous == --* ]] && _dovetail_valued "$command" | grep -qxF -e "$previous"; then
		return
	fi
	case $command in
	"")
		mapfile -t COMPREPLY < <(compgen -W "$(dovetail help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$word") ;;
	help)
		mapfile -t COMPREPLY < <(compgen -W "$(dovetail help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$word") ;;
	secret)
		mapfile -t COMPREPLY < <(compgen -W "list add remove" -- "$word") ;;
	import|mirror)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	get|set|rm|ls|watch|export|encrypt|unlock|rotate)
		# one name a line; a name may have blanks
		_dovetail_offer "$word" < <(dovetail ls --offline --quiet "${account[@]}" 2>/dev/null) ;;
	esac
}

complete -F _dovetail dovetail
