//! Everything that goes to standard output: tables and lines for people, JSON for programs.

mod table;

use std::io::{self, BufWriter, IsTerminal as _, Write};

use serde::Serialize;

use super::error::Error;

pub(crate) use table::{Cell, Table};

/// What can be shown to people; `Serialize` is for programs.
pub(crate) trait Human {
    /// Whole lines, each with its line feed.
    fn human(&self, style: Style) -> String;
}

/// How text for people is dressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether colours may be used.
    pub(crate) color: bool,
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    /// Created, ready, verified.
    Good,
    /// Changed, under way.
    Notice,
    /// Deleted, failed.
    Bad,
    /// Of less interest.
    Faint,
}

impl Style {
    /// Without colours: for files, pipes and tests.
    pub(crate) const PLAIN: Self = Self { color: false };

    /// Colours only where a terminal shows them, and not with `NO_COLOR`.
    fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { color: !refused && io::stdout().is_terminal() }
    }

    /// The text in the colour of its meaning.
    pub(crate) fn paint(self, tint: Tint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match tint {
            Tint::Good => 32,
            Tint::Notice => 33,
            Tint::Bad => 31,
            Tint::Faint => 90,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Standard output, buffered.
pub(crate) struct Output {
    json: bool,
    style: Style,
    sink: Box<dyn Write + Send>,
}

impl Output {
    /// To standard output, as JSON or for people.
    pub(crate) fn stdout(json: bool) -> Self {
        let style = if json { Style::PLAIN } else { Style::of_stdout() };
        Self { json, style, sink: Box::new(BufWriter::new(io::stdout())) }
    }

    /// One answer: one JSON document.
    pub(crate) fn document<T: Serialize + Human>(&mut self, value: &T) -> Result<(), Error> {
        if self.json {
            self.json_document(value)?;
        } else {
            self.sink.write_all(value.human(self.style).as_bytes())?;
        }
        self.flush()
    }

    /// One of many answers: one line of JSON. Not flushed.
    pub(crate) fn item<T: Serialize + Human>(&mut self, value: &T) -> Result<(), Error> {
        if self.json {
            self.json_line(value)
        } else {
            Ok(self.sink.write_all(value.human(self.style).as_bytes())?)
        }
    }

    /// One line of JSON, whatever was asked for. Not flushed.
    pub(crate) fn json_line<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        serde_json::to_writer(&mut self.sink, value).map_err(io::Error::from)?;
        Ok(self.sink.write_all(b"\n")?)
    }

    /// What a function answered: for programs the document; for people its bytes as they are, and beside them, on standard
    /// error, what else there is to say.
    pub(crate) fn answer<T: Serialize>(&mut self, value: &T, bytes: &[u8], note: &str) -> Result<(), Error> {
        if self.json {
            self.json_document(value)?;
            return self.flush();
        }
        self.raw(bytes)?;
        // The note, or the prompt, is to begin a line; whoever reads a pipe gets nothing but the answer.
        if io::stdout().is_terminal() && bytes.last().is_some_and(|last| *last != b'\n') {
            self.raw(b"\n")?;
        }
        self.flush()?;
        eprintln!("{note}");
        Ok(())
    }

    /// Bytes as they are. Not flushed.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.sink.write_all(bytes)?)
    }

    /// Hands over what is buffered.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        Ok(self.sink.flush()?)
    }

    fn json_document<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        serde_json::to_writer_pretty(&mut self.sink, value).map_err(io::Error::from)?;
        Ok(self.sink.write_all(b"\n")?)
    }
}

/// Rows that are shown while more of them arrive: JSON lines, or tables of up to [`Rows::PAGE`] rows under one heading.
pub(crate) struct Rows<'a> {
    output: &'a mut Output,
    heading: &'static [&'static str],
    table: Table,
}

impl<'a> Rows<'a> {
    /// So many rows are aligned with each other.
    const PAGE: usize = 500;

    /// No rows yet.
    pub(crate) fn new(output: &'a mut Output, heading: &'static [&'static str]) -> Self {
        Self { output, heading, table: Table::new(heading) }
    }

    /// One row: `value` for programs, `cells` for people.
    pub(crate) fn push<T: Serialize>(&mut self, value: &T, cells: Vec<Cell>) -> Result<(), Error> {
        if self.output.json {
            return self.output.json_line(value);
        }
        self.table.row(cells);
        if self.table.len() >= Self::PAGE {
            self.print()?;
            self.table = Table::continued(self.heading.len());
        }
        Ok(())
    }

    /// Shows what is left.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if !self.output.json && !self.table.is_empty() {
            self.print()?;
        }
        self.output.flush()
    }

    fn print(&mut self) -> Result<(), Error> {
        let text = self.table.render(self.output.style);
        self.output.raw(text.as_bytes())?;
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn rows(json: bool) -> String {
        let captured = Captured::default();
        let mut output = Output { json, style: Style::PLAIN, sink: Box::new(captured.clone()) };
        let mut rows = Rows::new(&mut output, &["ID", "VERSION"]);
        for (id, version) in [("alice", 3_u64), ("bob-the-builder", 12)] {
            rows.push(&serde_json::json!({"id": id, "version": version}), vec![id.into(), version.into()])
                .expect("written");
        }
        rows.finish().expect("written");
        let bytes = captured.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn rows_are_a_table_for_people() {
        insta::assert_snapshot!(rows(false), @"
        ID               VERSION
        alice                  3
        bob-the-builder       12
        ");
    }

    #[test]
    fn rows_are_json_lines_for_programs() {
        insta::assert_snapshot!(rows(true), @r#"
        {"id":"alice","version":3}
        {"id":"bob-the-builder","version":12}
        "#);
    }

    #[test]
    fn colours_only_where_they_are_shown() {
        assert_eq!(Style::PLAIN.paint(Tint::Bad, "deleted"), "deleted");
        assert_eq!(Style { color: true }.paint(Tint::Bad, "deleted"), "\x1b[31mdeleted\x1b[0m");
    }
}
