//! Columns that line up, as kubectl's do: three spaces between them, none at the end of a line.

/// Rows of text. A row may be shorter than the header; what is missing is empty.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

const GAP: usize = 3;

impl Table {
    /// A table with this header.
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Lines, each behind `indent` spaces.
    pub(crate) fn render(&self, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row: &Vec<String>| row.get(column)).map(|cell: &String| count(cell)).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - count(cell) + GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names in Kubernetes are ASCII and our own signs one column wide, so characters are columns.
fn count(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut table = Table::new(&["NAME", "VERSION", "PODS"]);
        table.row(["a".to_owned(), "0.1.0".to_owned(), "1".to_owned()]);
        table.row(["a-longer-one".to_owned(), "✓".to_owned()]);
        assert_eq!(
            table.render(2),
            "  NAME           VERSION   PODS\n  a              0.1.0     1\n  a-longer-one   ✓\n"
        );
    }
}
