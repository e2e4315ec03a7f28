//! `postrider completions`: scripts that complete commands and flags.

use clap::ValueEnum;

use crate::end::{EXIT_CODES, Exit, Result};
use crate::output::print;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider completions bash > ~/.local/share/bash-completion/completions/postrider
  postrider completions zsh > ~/.zfunc/_postrider
  postrider completions fish > ~/.config/fish/completions/postrider.fish", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(arguments: &Arguments, command: &clap::Command) -> Result {
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // The scripts would offer what is hidden.
    let offered = command.get_subcommands().filter(|c| !c.is_hide_set());
    let mut command = clap::Command::new("postrider").subcommands(offered.cloned());
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "postrider", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
