//! Plain tables: a heading, columns two spaces apart, numbers to the right.

use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, presets};

use super::{Style, Tint};

/// A table under construction.
pub(crate) struct Table {
    heading: Option<&'static [&'static str]>,
    columns: usize,
    rows: Vec<Vec<Cell>>,
}

/// One field of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    is_number: bool,
    tint: Option<Tint>,
}

impl Cell {
    /// The same field in a colour.
    #[must_use]
    pub(crate) fn tinted(mut self, tint: Tint) -> Self {
        self.tint = Some(tint);
        self
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, is_number: false, tint: None }
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self { text: number.to_string(), is_number: true, tint: None }
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self { text: number.to_string(), is_number: true, tint: None }
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        u64::from(number).into()
    }
}

impl From<u16> for Cell {
    fn from(number: u16) -> Self {
        u64::from(number).into()
    }
}

impl Table {
    /// An empty table.
    pub(crate) fn new(heading: &'static [&'static str]) -> Self {
        Self { heading: Some(heading), columns: heading.len(), rows: Vec::new() }
    }

    /// An empty table without a heading: the rest of one that was shown.
    pub(crate) fn continued(columns: usize) -> Self {
        Self { heading: None, columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns);
        self.rows.push(cells);
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text: lines that end without spaces.
    pub(crate) fn render(&self, style: Style) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING);
        if style.color {
            // The width of a terminal is known only to one that is asked.
            table.enforce_styling().set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        if let Some(heading) = self.heading {
            let numeric = |column: usize| {
                self.rows.first().and_then(|row| row.get(column)).is_some_and(|cell| cell.is_number)
            };
            table.set_header(heading.iter().enumerate().map(|(column, title)| {
                let cell = comfy_table::Cell::new(title).set_alignment(alignment(numeric(column)));
                if style.color { cell.add_attribute(Attribute::Bold) } else { cell }
            }));
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| dress(cell, style)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }
}

fn dress(cell: &Cell, style: Style) -> comfy_table::Cell {
    let dressed = comfy_table::Cell::new(&cell.text).set_alignment(alignment(cell.is_number));
    match cell.tint {
        Some(tint) if style.color => dressed.fg(match tint {
            Tint::Good => Color::Green,
            Tint::Notice => Color::Yellow,
            Tint::Bad => Color::Red,
            Tint::Faint => Color::DarkGrey,
        }),
        _ => dressed,
    }
}

const fn alignment(is_number: bool) -> CellAlignment {
    if is_number { CellAlignment::Right } else { CellAlignment::Left }
}
