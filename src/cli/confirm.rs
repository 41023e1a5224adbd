//! Asking before what cannot be undone (PB4).

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;

use crate::store::VerbError;
use crate::store::error::EXIT_USAGE;

/// Goes on only when `yes` was given, or somebody at the terminal says so.
///
/// # Errors
/// Exit 2 when there is nobody to ask, exit 1 when the answer is no; nothing was done.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), VerbError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(VerbError {
            text: "this cannot be undone, and there is no terminal to ask on: add --yes to confirm; nothing was done".to_owned(),
            exit: EXIT_USAGE,
        });
    }
    let answer = ask(question, &mut io::stdin().lock(), &mut io::stderr());
    if answer.unwrap_or(false) {
        Ok(())
    } else {
        Err(VerbError::refused("nothing was done"))
    }
}

fn ask(question: &str, input: &mut impl BufRead, talk: &mut impl Write) -> io::Result<bool> {
    write!(talk, "{question} [y/N] ")?;
    talk.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_counts() {
        let cases = [
            ("y\n", true),
            ("YES\n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
            ("yess\n", false),
        ];
        for (typed, expected) in cases {
            let mut talk = Vec::new();
            let answer = ask("end it?", &mut typed.as_bytes(), &mut talk).unwrap();
            assert_eq!(answer, expected, "{typed:?}");
            assert_eq!(talk, b"end it? [y/N] ");
        }
    }
}
