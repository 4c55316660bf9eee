//! Tables with aligned columns.

/// Lines of cells; the first line is the head.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            lines: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    pub(crate) fn push(&mut self, line: Vec<String>) {
        self.lines.push(line);
    }

    /// The text, with columns as wide as their longest cell.
    pub(crate) fn text(&self) -> String {
        let mut widths = Vec::new();
        for line in &self.lines {
            widths.resize(widths.len().max(line.len()), 0);
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for line in &self.lines {
            let start = text.len();
            for (width, cell) in widths.iter().zip(line) {
                text.push_str(cell);
                // Two blanks between columns.
                let blanks = width - cell.chars().count() + 2;
                text.extend(std::iter::repeat_n(' ', blanks));
            }
            text.truncate(start + text[start..].trim_end().len());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_the_end() {
        let mut table = Table::new(&["ID", "STATUS"]);
        table.push(vec!["örtchen".into(), "x".into()]);
        table.push(vec!["b".into(), String::new()]);
        assert_eq!(table.text(), "ID       STATUS\nörtchen  x\nb\n");
    }
}
