//! What the guest says to the host: one line each, over a virtio port of its own.
//!
//! The kernel's messages go to the serial console and never mix with these lines. Lines keep their order, and a writer
//! does not wait until the host has one: the kernel hands them to QEMU, which passes them on when it gets to it. So a
//! machine that is killed takes lines with it. Who needs every line that was said before an instant asks behind it
//! ([`MARK`]): the answer comes after them.

use std::fmt;

/// A question of the host, and its answer.
pub const MARK: &str = "mark";
/// The answer.
pub const MARKED: &str = "marked";

/// One line from the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The guest is up; its kernel release.
    Hello(String),
    /// A check of the scenario: its name, and what was wrong if it failed.
    Check(String, Result<(), String>),
    /// Progress for a person.
    Note(String),
    /// A fact for the host's part of the scenario.
    Tell(String),
    /// The scenario is over; why it could not be finished if it was not.
    Result(Result<(), String>),
}

impl Message {
    /// Parses a line; `None` for anything else than a message.
    #[must_use]
    pub fn parse(line: &str) -> Option<Message> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let verdict = |text: &str| match text.split_once(' ').unwrap_or((text, "")) {
            ("ok", _) => Some(Ok(())),
            ("FAILED", detail) => Some(Err(detail.to_owned())),
            _ => None,
        };
        match word {
            "HELLO" => Some(Message::Hello(rest.to_owned())),
            "CHECK" => {
                let (name, outcome) = rest.split_once(' ')?;
                Some(Message::Check(name.to_owned(), verdict(outcome)?))
            }
            "NOTE" => Some(Message::Note(rest.to_owned())),
            "TELL" => Some(Message::Tell(rest.to_owned())),
            "RESULT" => Some(Message::Result(verdict(rest)?)),
            _ => None,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flat = |text: &str| text.replace(['\n', '\r'], " | ");
        let verdict = |outcome: &Result<(), String>| match outcome {
            Ok(()) => "ok".to_owned(),
            Err(detail) => format!("FAILED {}", flat(detail)),
        };
        match self {
            Message::Hello(release) => write!(f, "HELLO {release}"),
            Message::Check(name, outcome) => {
                write!(f, "CHECK {} {}", name.replace(' ', "-"), verdict(outcome))
            }
            Message::Note(text) => write!(f, "NOTE {}", flat(text)),
            Message::Tell(text) => write!(f, "TELL {}", flat(text)),
            Message::Result(outcome) => write!(f, "RESULT {}", verdict(outcome)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_its_line() {
        let messages = [
            Message::Hello("6.12.1".into()),
            Message::Check("drives".into(), Ok(())),
            Message::Check("drives".into(), Err("two of three".into())),
            Message::Note("half way".into()),
            Message::Tell("issue 1 2 3".into()),
            Message::Result(Ok(())),
            Message::Result(Err("no device".into())),
        ];
        for message in messages {
            assert_eq!(Message::parse(&message.to_string()), Some(message));
        }
    }

    #[test]
    fn noise_is_no_message() {
        for line in ["", "CHECK", "CHECK a", "CHECK a maybe", "RESULT", "[    0.1] CHECK x ok", "hello"] {
            assert_eq!(Message::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_detail_of_several_lines_stays_one_line() {
        let message = Message::Check("a b".into(), Err("one\ntwo".into()));
        assert_eq!(message.to_string(), "CHECK a-b FAILED one | two");
    }
}
