//! The command-line arguments.

use std::{ffi::OsString, path::PathBuf};

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};

/// The text of `parlour --help`.
pub(super) const HELP_TEXT: &str = "\
Parlour, a Matrix homeserver.

Usage:
  parlour [--config FILE]               run the server; it needs no configuration
  parlour config check [--config FILE]  check whether a server can start with the configuration
  parlour help                          show this

Options:
  -c, --config FILE  read the configuration from FILE (see config.example.toml)
  -h, --help         show this
  -V, --version      show the version

Every key of the configuration can be set with an environment variable, which
overrides the file: PARLOUR__SERVER__NAME=example.org
";

/// A command of the program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CliCommand {
    /// Runs the server.
    Serve {
        /// The configuration file.
        config: Option<PathBuf>,
    },
    /// Checks the configuration.
    CheckConfig {
        /// The configuration file.
        config: Option<PathBuf>,
    },
    /// Shows the version.
    Version,
    /// Shows the help.
    Help,
}

/// Parses the arguments, without the program's name.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<CliCommand, lexopt::Error> {
    let mut parser = Parser::from_args(arguments);
    let mut words = Vec::new();
    let mut config = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('c') | Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Short('h') | Long("help") => return Ok(CliCommand::Help),
            Short('V') | Long("version") => return Ok(CliCommand::Version),
            Value(word) if words.len() < 2 => words.push(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Ok(CliCommand::Serve { config }),
        ["config", "check"] => Ok(CliCommand::CheckConfig { config }),
        ["help", ..] => Ok(CliCommand::Help),
        other => {
            let unknown = other.join(" ");
            Err(format!("unknown command `{unknown}`").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<CliCommand, String> {
        let arguments = line.split_whitespace().map(OsString::from);
        parse(arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn without_arguments_the_server_runs() {
        assert_eq!(parsed(""), Ok(CliCommand::Serve { config: None }));
    }

    #[test]
    fn the_configuration_may_precede_or_follow_a_command() {
        let expected = || {
            Ok(CliCommand::CheckConfig {
                config: Some("a.toml".into()),
            })
        };

        assert_eq!(parsed("config check --config a.toml"), expected());
        assert_eq!(parsed("-c a.toml config check"), expected());
    }

    #[test]
    fn help_is_a_command_and_an_option() {
        for line in ["help", "help config", "--help", "-h", "config check --help"] {
            assert_eq!(parsed(line), Ok(CliCommand::Help), "{line}");
        }
    }

    #[test]
    fn unknown_arguments_are_named_in_the_error() {
        assert_eq!(
            parsed("config chek"),
            Err("unknown command `config chek`".to_owned())
        );
        assert_eq!(
            parsed("--cnfig x"),
            Err("invalid option '--cnfig'".to_owned())
        );
        assert!(parsed("--config").is_err());
    }
}
