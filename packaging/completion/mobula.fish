# Completion of the command mobula for fish: its own help says what there is.
function __mobula_part
    set -l part
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or set -a part $word
    end
    if test "$part[1]" = journal
        printf '%s\n' $part[1..2]
    else if set -q part[1]
        echo $part[1]
    end
end
function __mobula_wants_command
    set -l part (__mobula_part)
    test (count $part) -eq 0; or test "$part" = journal
end
function __mobula_commands
    mobula (__mobula_part) --help 2>/dev/null | string replace -rf '^  ([a-z]+) +(.*)' '$1\t$2'
end
function __mobula_options
    for line in (mobula (__mobula_part) --help 2>/dev/null | string replace -rf '^  (-[^ ]+)( [A-Z]+[^ ]*)? +(.*)' '$1\t$3')
        set -l both (string split \t -- $line)
        for name in (string split , -- $both[1])
            printf '%s\t%s\n' $name $both[2]
        end
    end
end
complete -c mobula -n __mobula_wants_command -f -a '(__mobula_commands)'
complete -c mobula -n 'string match -q -- "-*" (commandline -ct)' -f -a '(__mobula_options)'
