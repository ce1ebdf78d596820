//! Why the server cannot start or go on.

use crate::Problem;
use rdkafka::error::KafkaError;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration contradicts itself or lacks something.
    #[error("{0}")]
    Config(String),
    /// The disk of the spool failed: it may do so no longer after another start.
    #[error("{0}")]
    Spool(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another port with `{option}`, or stop the process that holds it")]
    Listen {
        /// The option that names the address.
        option: &'static str,
        /// The address as it was configured.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file with the links cannot be read at all.
    #[error("cannot read the links in {}; check the path and its permissions", path.display())]
    ReadLinks {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file with the links is not a list of links.
    #[error("{}, line {line}: {message}", path.display())]
    ParseLinks {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1; 0 when the parser cannot say.
        line: u64,
        /// What is wrong and what to do.
        message: String,
    },
    /// Links in the file are bad; none of the file is taken.
    #[error("{}", bad_links(path, problems))]
    BadLinks {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the file's order.
        problems: Vec<Problem>,
    },
    /// librdkafka refused its options.
    #[error("the Kafka client refused its options; check the brokers and properties")]
    Kafka(#[source] KafkaError),
    /// A thread or an event loop could not be made.
    #[error("cannot start {part}")]
    Start {
        /// Which one.
        part: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Bad links that are named one by one; the rest is counted.
const MAX_NAMED: usize = 20;

fn bad_links(path: &Path, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems.iter().take(MAX_NAMED) {
        text += &format!("{}, {problem}\n", path.display());
    }
    if let Some(more) = problems.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        text += &format!("{more} more problems; `clickline-redirect --check` lists them\n");
    }
    text + "no link of the file is taken before all are good"
}

impl From<KafkaError> for Error {
    /// Without the value of the option that was refused: it may be a password, and this is printed.
    fn from(error: KafkaError) -> Self {
        Error::Kafka(match error {
            KafkaError::ClientConfig(result, description, name, value) => {
                // librdkafka quotes some values itself.
                let quoted = !value.is_empty() && !name.contains(&value) && description.contains(&value);
                let description = if quoted { "its value is not taken".to_owned() } else { description };
                KafkaError::ClientConfig(result, description, name, "(not shown)".to_owned())
            }
            error => error,
        })
    }
}

impl Error {
    /// Whether the configuration is to blame: starting again without changing it will not help.
    pub fn is_configuration(&self) -> bool {
        match self {
            Error::Config(_) | Error::ReadLinks { .. } | Error::ParseLinks { .. } | Error::BadLinks { .. } | Error::Kafka(_) => true,
            // A port in use may be free in a moment; an address that is not this machine's never will be.
            Error::Listen { source, .. } => source.kind() == io::ErrorKind::AddrNotAvailable,
            Error::Start { .. } | Error::Spool(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_option_is_named_and_its_value_is_not() {
        for (name, value) in [("ssl.key.password", "hunter2"), ("no.such.option", "hunter2"), ("security.protocol", "hunter2")] {
            let refused = rdkafka::ClientConfig::new().set(name, value).create_native_config().err().expect("refused");
            let error = Error::from(refused);
            let shown = format!("{error:?}");
            let said = format!("{shown} {:#}", anyhow::Error::from(error));
            assert!(said.contains(name) && !said.contains(value), "{said}");
        }
    }
}
