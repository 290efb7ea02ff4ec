//! Rows as a table for people.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde_json::Value;

use super::output::{self, grouped};

/// More rows than this are left to the other formats.
const ROWS_SHOWN: usize = 200;
const LINE_CHARS_MAX: usize = 400;

/// The rows of an answer of `/v1/sql`, without its statistics.
pub fn pretty(answer: &Value) -> String {
    let columns: Vec<_> = answer["columns"].as_array().into_iter().flatten().collect();
    let rows: Vec<_> = answer["rows"].as_array().into_iter().flatten().collect();
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    if let Some((terminal_size::Width(width), _)) = terminal_size::terminal_size_of(std::io::stdout()) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(columns.iter().map(|column| column["name"].as_str().unwrap_or_default()));
    for row in rows.iter().take(ROWS_SHOWN) {
        let cells = row.as_array().into_iter().flatten().zip(&columns);
        table.add_row(cells.map(|(value, column)| {
            let alignment = if is_number(column) { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(shown(value)).set_alignment(alignment)
        }));
    }
    let mut text = table.to_string();
    if rows.len() > ROWS_SHOWN {
        text.push_str(&format!(
            "\n… and {} more; --format csv shows all",
            output::rows((rows.len() - ROWS_SHOWN) as u64)
        ));
    }
    text
}

/// Names above rows of text, of which all but the first column stand right.
pub fn plain(names: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(names);
    for row in rows {
        let cells = row.into_iter().enumerate().map(|(place, text)| {
            let alignment = if place == 0 { CellAlignment::Left } else { CellAlignment::Right };
            Cell::new(one_line(&text)).set_alignment(alignment)
        });
        table.add_row(cells);
    }
    table.to_string()
}

/// How many rows, how fast, and which tier they were read from.
pub fn footer(answer: &Value) -> String {
    let rows = answer["rows"].as_array().map_or(0, Vec::len) as u64;
    format!("{} {}", output::rows(rows), tiers(answer))
}

/// `in 4.1 ms, reading 12,000 hot + 36,000 lake rows`.
pub fn tiers(answer: &Value) -> String {
    let stats = &answer["stats"];
    let count = |name: &str| grouped(stats[name].as_u64().unwrap_or(0));
    let elapsed = stats["elapsed_ms"].as_f64().unwrap_or(0.0);
    format!("in {elapsed:.1} ms, reading {} hot + {} lake rows", count("hot_rows"), count("lake_rows"))
}

fn is_number(column: &Value) -> bool {
    let sql_type = column["type"].as_str().unwrap_or_default();
    ["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "REAL", "DOUBLE", "DECIMAL"].iter().any(|name| sql_type.contains(name))
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// Without what would move the terminal's cursor, and not too long.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == LINE_CHARS_MAX {
            line.push('…');
            break;
        }
        if character.is_control() { line.extend(character.escape_default()) } else { line.push(character) }
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_stand_right_and_nothing_moves_the_cursor() {
        let answer = json!({
            "columns": [{"name": "n", "type": "BIGINT"}, {"name": "text", "type": "VARCHAR"}],
            "rows": [[1, "a\nb"], [1000, "\u{1b}[2J"], [null, "x".repeat(1000)]],
            "stats": {"hot_rows": 3, "lake_rows": 1200, "elapsed_ms": 1.25},
        });
        let text = pretty(&answer);
        for part in ["│    1 ┆ a ", "│      ┆ b ", "\\u{1b}[2J", "│ NULL ┆ xxx", "x… │"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert_eq!(footer(&answer), "3 rows in 1.2 ms, reading 3 hot + 1,200 lake rows");
    }
}
