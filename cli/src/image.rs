//! `teamster image …`: the images of the node that this is run on. It speaks to that node's containerd, not
//! to the coordinator, and to no registry.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use teamster_agent::runtime::image;
use teamster_values::ByteCount;

use crate::args::{Format, FormatArgs};
use crate::{FINE, table};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Bring an image from a file onto this node
    #[command(after_help = "\
Examples:
  docker save busybox -o busybox.tar && teamster image import busybox.tar
  teamster image import --containerd /var/lib/teamster/up/containerd.sock busybox.tar

Takes what `docker save` writes and OCI image layouts, as one tar file.")]
    Import {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// List the images that tasks on this node can use
    List {
        #[command(flatten)]
        format: FormatArgs,
        #[command(flatten)]
        socket: SocketArgs,
    },
}

/// Which containerd is meant.
#[derive(Debug, Args)]
pub(crate) struct SocketArgs {
    /// containerd's socket; the one of `teamster up` is DATA_DIR/containerd.sock
    #[arg(
        long,
        env = "TEAMSTER_CONTAINERD",
        default_value = "/run/containerd/containerd.sock",
        value_name = "SOCKET"
    )]
    containerd: PathBuf,
}

/// Does what was asked.
pub(crate) async fn run(command: ImageCommand) -> anyhow::Result<u8> {
    match command {
        ImageCommand::Import { file, socket } => {
            let context = || format!("import {}", file.display());
            let archive = File::open(&file).with_context(context)?;
            let images = image::import(&socket.containerd, archive).await.with_context(context)?;
            images.iter().for_each(|image| table::say(&image.name));
        }
        ImageCommand::List { format, socket } => {
            let images = image::list(&socket.containerd).await.context("list the images")?;
            if format.format == Format::Json {
                let documents: Vec<_> = images
                    .iter()
                    .map(|i| json!({"name": i.name, "digest": i.digest, "size_bytes": i.size_bytes}))
                    .collect();
                table::print_json(&documents)?;
                return Ok(FINE);
            }
            let rows: Vec<[String; 3]> = images
                .into_iter()
                .map(|image| [image.name, ByteCount(image.size_bytes).to_string(), image.digest])
                .collect();
            table::print(["IMAGE", "SIZE", "DIGEST"], &rows);
        }
    }
    Ok(FINE)
}
