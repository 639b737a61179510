//! `completions`: scripts by which shells complete command lines.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::{Shell, generate};
use fluid_sidecar_layout::{clap_parser, named};

use super::Outcome;

/// The program's file, as kubectl looks for it.
const PROGRAM: &str = "kubectl-fluid_sidecar";

/// What kubectl runs to complete `kubectl fluid-sidecar …`.
const FOR_KUBECTL: &str = "#!/bin/sh\nexec kubectl fluid-sidecar __complete -- \"$@\"\n";

/// What a shell does beside the candidates, in the numbers of cobra, by which kubectl completes.
const DEFAULT: u8 = 0;
const NO_FILES: u8 = 4;

/// For which shell.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Options {
    /// The shell.
    #[arg(value_parser = clap_parser::<Completed>())]
    shell: Completed,
}

named! {
    /// What completes.
    enum Completed: Option<Shell> {
        /// Source it, or put it where bash-completion looks.
        Bash = "bash" => Some(Shell::Bash),
        /// Put it into a directory of $fpath, as _kubectl-fluid_sidecar.
        Zsh = "zsh" => Some(Shell::Zsh),
        /// Put it into ~/.config/fish/completions.
        Fish = "fish" => Some(Shell::Fish),
        /// Add it to $PROFILE.
        PowerShell = "powershell" => Some(Shell::PowerShell),
        /// Put it into a directory of $PATH, as kubectl_complete-fluid_sidecar.
        Kubectl = "kubectl" => None,
    }
}

const AFTER_HELP: &str = "\
The shells complete `kubectl-fluid_sidecar …`, the name of the program. For `kubectl fluid-sidecar …` kubectl's own
completion runs a program.

Examples:
  source <(kubectl-fluid_sidecar completions bash)
  kubectl fluid-sidecar completions kubectl >~/bin/kubectl_complete-fluid_sidecar
  chmod +x ~/bin/kubectl_complete-fluid_sidecar";

/// Prints the script for the command.
pub fn run(options: &Options, command: &mut Command) -> Result<Outcome> {
    let mut script = Vec::new();
    match options.shell.facts() {
        Some(shell) => generate(*shell, command, PROGRAM, &mut script),
        None => script.extend(FOR_KUBECTL.bytes()),
    }
    anstream::print!("{}", String::from_utf8(script)?);
    Ok(Outcome::Good)
}

/// Prints what the last of the words may become, as kubectl reads it.
pub fn complete(words: &[String], command: &mut Command) -> Outcome {
    command.build();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut verb = &*command;
    for word in before {
        verb = verb.find_subcommand(word).unwrap_or(verb);
    }
    let (mut candidates, mut files) = (Vec::new(), DEFAULT);
    let option = before.last().and_then(|word| {
        verb.get_arguments().find(|it| it.get_action().takes_values() && is_called(it, word))
    });
    let values = |argument: &clap::Arg| -> Vec<String> {
        argument.get_possible_values().iter().map(|it| it.get_name().to_string()).collect()
    };
    match option {
        Some(option) => candidates = values(option),
        None if last.starts_with('-') => {
            let options = verb.get_arguments().filter(|it| !it.is_hide_set());
            candidates.extend(options.filter_map(|it| Some(format!("--{}", it.get_long()?))));
            files = NO_FILES;
        }
        None => {
            let verbs = verb.get_subcommands().filter(|it| !it.is_hide_set());
            candidates.extend(verbs.map(|it| it.get_name().to_string()));
            candidates.extend(verb.get_positionals().flat_map(values));
        }
    }
    if !candidates.is_empty() {
        files = NO_FILES;
    }
    for candidate in candidates.iter().filter(|it| it.starts_with(last)) {
        anstream::println!("{candidate}");
    }
    anstream::println!(":{files}");
    Outcome::Good
}

fn is_called(option: &clap::Arg, word: &str) -> bool {
    let long = option.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long));
    long || option.get_short().is_some_and(|short| word.strip_prefix('-') == Some(&short.to_string()))
}
