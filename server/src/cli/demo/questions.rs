//! The questions of `server/data/questions.sql`, asked one after the other.

use super::flights;
use crate::cli::client::Client;
use crate::cli::{Outcome, output, table};

pub async fn ask_all(client: &Client) -> Outcome {
    for (title, statement) in parse(flights::QUESTIONS) {
        let answer = client.sql(statement, "public").await?;
        output::line(format_args!("{title}"));
        output::line(table::pretty(&answer));
        output::line(format_args!("{}\n", table::footer(&answer)));
    }
    Ok(())
}

/// Each question is a comment and a statement, with an empty line between questions.
fn parse(text: &str) -> Vec<(&str, &str)> {
    let questions = text.split("\n\n").filter_map(|part| part.trim().split_once('\n'));
    questions.map(|(title, statement)| (title.trim_start_matches("--").trim(), statement.trim())).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_question_has_a_title_and_a_statement() {
        let questions = super::parse(super::flights::QUESTIONS);
        assert_eq!(questions.len(), 7);
        for (title, statement) in questions {
            assert!(title.ends_with('?'), "{title}");
            assert!(statement.ends_with(';') && !statement.starts_with("--"), "{statement}");
        }
    }
}
