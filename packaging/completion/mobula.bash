# Completion of the command mobula for bash: its own help says what there is.
_mobula() {
  local word=${COMP_WORDS[COMP_CWORD]} part=() i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
    -*) ;;
    *) part+=("${COMP_WORDS[i]}") ;;
    esac
  done
  if [ ${#part[@]} -eq 0 ] || { [ "${part[0]}" = journal ] && [ ${#part[@]} -eq 1 ]; }; then
    local all
    all=$(mobula "${part[@]}" --help 2>/dev/null | sed -n '/^Subcommands:/,$ s/^  \([a-z]*\) .*/\1/p')
    mapfile -t COMPREPLY < <(compgen -W "$all --help --version" -- "$word")
  elif [[ $word == -* ]]; then
    local depth=1
    [ "${part[0]}" != journal ] || depth=2
    all=$(mobula "${part[@]:0:depth}" --help 2>/dev/null | grep -oE '^  -[^ ]+' | tr ', ' '\n\n' | grep '^-')
    mapfile -t COMPREPLY < <(compgen -W "$all" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  fi
}
complete -o filenames -o bashdefault -F _mobula mobula
