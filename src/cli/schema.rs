//! `clickline schema`: the JSON Schema of a topic, all of them as files, or what has changed since older ones.

use super::Failure;
use crate::schema::{Document, all};
use anyhow::{Context as _, anyhow};
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The topic, by its default name, whose schema is written to standard output; without it, the topics are listed.
    #[arg(conflicts_with_all = ["out", "compare"])]
    topic: Option<String>,
    /// Write all schemas into this folder, one file per topic.
    #[arg(long, value_name = "FOLDER", conflicts_with = "compare")]
    out: Option<PathBuf>,
    /// Hold this build against older schemas in this folder (as `--out` wrote them); exit code 1 when it breaks something.
    #[arg(long, value_name = "FOLDER")]
    compare: Option<PathBuf>,
}

/// Does what was asked.
///
/// # Errors
/// A topic that there is not, files that can't be read or written, or a break.
pub fn run(args: &Args) -> Result<(), Failure> {
    let documents = all();
    match args {
        Args { topic: Some(topic), .. } => {
            let Some(document) = documents.iter().find(|document| document.topic == *topic) else {
                let topics: Vec<_> = documents.iter().map(|document| document.topic.as_str()).collect();
                return Err(Failure::Configuration(anyhow!("there is no topic {topic}; there are {}", topics.join(", "))));
            };
            print!("{}", document.text());
            Ok(())
        }
        Args { out: Some(folder), .. } => Ok(write(&documents, folder)?),
        Args { compare: Some(folder), .. } => Ok(compare(&documents, folder)?),
        Args { topic: None, out: None, compare: None } => {
            for document in &documents {
                let title = document.schema["description"].as_str().unwrap_or_default();
                println!("{:<28} {:<4} {}", document.topic, document.role.name(), title.lines().next().unwrap_or_default());
            }
            Ok(())
        }
    }
}

fn write(documents: &[Document], folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for document in documents {
        let path = folder.join(document.file());
        fs::write(&path, document.text()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{} schemas in {}", documents.len(), folder.display());
    Ok(())
}

fn compare(documents: &[Document], folder: &Path) -> anyhow::Result<()> {
    let (mut compared, mut breaks) = (0, 0);
    for document in documents {
        let path = folder.join(document.file());
        if !path.exists() {
            println!("{}: new", document.topic);
            continue;
        }
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let older = serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        compared += 1;
        for what in document.breaks(&older) {
            println!("{}: {what}", document.topic);
            breaks += 1;
        }
    }
    match (compared, breaks) {
        (0, _) => Err(anyhow!("{} holds no schema of any topic", folder.display())),
        (_, 0) => {
            println!("{compared} schemas: nothing breaks");
            Ok(())
        }
        (_, breaks) => Err(anyhow!("{breaks} breaks since the schemas in {}", folder.display())),
    }
}
