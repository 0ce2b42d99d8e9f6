//! `feedline top`: the nodes of a cluster, or the one there is, live in the terminal.
//!
//! One thread asks the daemon each second, so that keys work while a node is waited for; this one draws what
//! was heard last. What is drawn is a pure function of two answers: see [`frame`].

mod frame;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use feedline_node::api::NodeSummary;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Terminal, backend::TestBackend};

use self::frame::Shown;
use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::settings::RunDir;

/// How often the nodes are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long a key may wait for its effect: less than a person notices.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Columns of a frame that is printed where there is no terminal to ask.
const ONCE_COLUMNS: u16 = 150;

/// Whose life.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Rates are those of the last second; q, Esc or Ctrl-C ends it. Hit rates are those of the SSDs: reads that the
kernel answers from its page cache are seen by nobody.

Examples:
  feedline top
  feedline top --once /mnt/data      one frame as text, for scripts and bug reports"
)]
pub(crate) struct Args {
    /// Print one frame as plain text, a second after the first look.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder; without it, the first that is mounted.
    path: Option<String>,
}

/// Shows until somebody has seen enough.
pub(crate) fn run(args: &Args) -> Outcome {
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !args.once && !is_terminal {
        return Err(Failure::usage("feedline top draws on a terminal, and this is none")
            .way_out(
                "`feedline top --once` prints one frame, `feedline status --json` is for scripts",
            )
            .into());
    }
    let daemon = find(args)?;
    let mut shown = Shown::of(daemon.mountpoint.display().to_string(), daemon.nodes()?);
    if args.once {
        daemon.pause(ASK_EVERY);
        shown.next(daemon.nodes()?);
        return once(&shown);
    }
    let answers = ask_for_ever(daemon)?;
    let mut terminal = ratatui::try_init()?;
    let ended = live(&mut terminal, &mut shown, &answers);
    ratatui::try_restore()?;
    ended.map(|()| 0)
}

fn find(args: &Args) -> anyhow::Result<Daemon> {
    if let Some(path) = &args.path {
        return Ok(Daemon::find(&args.run_dir, path)?.0);
    }
    let first = Daemon::all(&args.run_dir.path()?)?.into_iter().find(Daemon::is_alive);
    first.ok_or_else(|| {
        Failure::not_found("nothing is mounted on this machine")
            .way_out("`feedline mount SOURCE DIR` mounts a bucket; --run-dir, if the mount was given one")
            .into()
    })
}

type Answer = anyhow::Result<Vec<NodeSummary>>;

/// Asks in a thread of its own, which ends with the process, or when nobody listens.
fn ask_for_ever(daemon: Daemon) -> anyhow::Result<Receiver<Answer>> {
    let (answers, heard) = sync_channel(1);
    let ask = move || {
        loop {
            daemon.pause(ASK_EVERY);
            match answers.try_send(daemon.nodes()) {
                // The one before was not looked at yet: it is as good.
                Ok(()) | Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    };
    std::thread::Builder::new().name("top-asks".into()).spawn(ask)?;
    Ok(heard)
}

fn live(
    terminal: &mut DefaultTerminal,
    shown: &mut Shown,
    answers: &Receiver<Answer>,
) -> anyhow::Result<()> {
    let mut is_new = true;
    loop {
        let heard = answers.try_recv();
        is_new |= heard.is_ok();
        match heard {
            Ok(Ok(nodes)) => shown.next(nodes),
            Ok(Err(error)) => shown.fail(&error),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => anyhow::bail!("the thread that asks has ended"),
        }
        if is_new {
            terminal.draw(|frame| frame::draw(frame, shown))?;
            is_new = false;
        }
        if event::poll(LOOK_EVERY)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                        && key.code == KeyCode::Char('c');
                    if is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(());
                    }
                }
                Event::Resize(..) => is_new = true,
                _ => {}
            }
        }
    }
}

/// One frame, as high as it needs to be.
fn once(shown: &Shown) -> Outcome {
    let columns = if io::stdout().is_terminal() {
        ratatui::crossterm::terminal::size().map_or(ONCE_COLUMNS, |(columns, _)| columns)
    } else {
        ONCE_COLUMNS
    };
    let mut out = output::stdout();
    for line in lines(shown, columns, shown.rows())? {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(0)
}

/// A frame of this size as text.
fn lines(shown: &Shown, columns: u16, rows: u16) -> anyhow::Result<Vec<String>> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows))?;
    terminal.draw(|frame| frame::draw(frame, shown))?;
    let buffer = terminal.backend().buffer();
    let line = |row: u16| {
        let symbols = (0..columns).map(|column| buffer[(column, row)].symbol());
        symbols.collect::<String>().trim_end().to_owned()
    };
    Ok((0..rows).map(line).collect())
}

#[cfg(test)]
mod tests;
