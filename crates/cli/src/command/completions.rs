//! `postrider completions`: scripts that complete commands and flags, and names of what runs.

use clap::ValueEnum;
use postrider::Code;

use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::print;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider completions bash > ~/.local/share/bash-completion/completions/postrider
  postrider completions zsh > ~/.zfunc/_postrider
  postrider completions fish > ~/.config/fish/completions/postrider.fish
  postrider completions bash --static                   a script that never runs this command", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// Only commands and flags, which stand in the script: names of topics, subscriptions and groups are then not offered
    #[arg(long = "static")]
    is_static: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(arguments: &Arguments, command: &clap::Command) -> Result {
    let script = match arguments.is_static {
        true => fixed(arguments.shell, command),
        false => asking(arguments.shell)?,
    };
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// A script that asks this command what could come next.
fn asking(shell: Shell) -> Result<Vec<u8>> {
    use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let (mut script, name) = (Vec::new(), "postrider");
    let written = completer.write_registration("COMPLETE", name, name, name, &mut script);
    written.map_err(|error| {
        let what = "the script cannot be made";
        Failure::new(Exit::Failed, Code::CLI_FAILED, what).why(error.to_string())
    })?;
    Ok(script)
}

/// A script that knows the commands of this version.
fn fixed(shell: Shell, command: &clap::Command) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // The scripts would offer what is hidden.
    let offered = command.get_subcommands().filter(|c| !c.is_hide_set());
    let mut command = clap::Command::new("postrider").subcommands(offered.cloned());
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "postrider", &mut script);
    script
}
