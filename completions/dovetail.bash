# Completion of dovetail(1) for bash. Commands and options come from its own help, names of entries from the replica (without
# asking the server).

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
	local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command= i
	local -a account=()

	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-a|--account|-m|--mailbox|--config|-t|--timeout)
			case ${COMP_WORDS[i]} in -a|--account|--config|-m|--mailbox)
				account+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}") ;;
			esac
			((i++)) ;;
		-*) ;;
		*)
			[ -n "$command" ] || command=${COMP_WORDS[i]} ;;
		esac
	done

	COMPREPLY=()
	case $previous in
	-a|--account)
		mapfile -t COMPREPLY < <(compgen -W "$(_dovetail_accounts)" -- "$word")
		return ;;
	--config|--netrc|--ca-file|-f|--file|--passphrase-file|--key-file)
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
		mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	get|set|rm|ls|watch|export|encrypt|unlock|rotate)
		# one name a line; a name may have blanks
		local IFS=$'\n'
		mapfile -t COMPREPLY < <(compgen -W "$(dovetail ls --offline --quiet "${account[@]}" 2>/dev/null)" -- "$word") ;;
	esac
}

complete -F _dovetail dovetail
