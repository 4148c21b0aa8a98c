//! What is said of each cell.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use service_kit::line;

use super::Format;
use super::kind::{Kind, Target};

/// One cell of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    engine: &'static str,
    target: &'static str,
    kind: &'static str,
    pub(super) seed: u64,
    /// What was harmed, and whether keys were aimed at.
    pub(super) harmed: String,
    /// What the node, or its end, said of it; each thing once.
    pub(super) said: Vec<String>,
    pub(super) healed: Vec<String>,
    /// From the start of the harmed node to everything being whole.
    pub(super) heal_s: f64,
    pub(super) total_s: f64,
    /// Answers 503 to acknowledged orders while it healed.
    pub(super) unavailable: u64,
    /// Why it does not pass.
    pub(super) failed: Option<String>,
    /// Where logs and data of what failed are.
    pub(super) kept: Option<PathBuf>,
}

impl Row {
    pub(super) fn new(engine: &'static str, target: Target, kind: Kind, seed: u64) -> Row {
        Row {
            engine,
            target: target.as_str(),
            kind: kind.as_str(),
            seed,
            harmed: String::new(),
            said: Vec::new(),
            healed: Vec::new(),
            heal_s: 0.0,
            total_s: 0.0,
            unavailable: 0,
            failed: None,
            kept: None,
        }
    }

    pub(super) fn passed(&self) -> bool {
        self.failed.is_none()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { engine, target, kind, harmed, said, seed, .. } = self;
        let failed = self.failed.as_deref().unwrap_or("healed");
        write!(f, "{engine} {target} {kind} (seed {seed}; {harmed}): {failed}; said: {}", said.join(" | "))?;
        self.kept.iter().try_for_each(|kept| write!(f, "; logs and data are kept in {}", kept.display()))
    }
}

/// What is said of harm to bytes that nobody reads any more.
pub(super) const HARMLESS: &str = "nothing, and nothing was lost";

const LEGEND: &str = "\
said    what the node said of it, first of all; `-o json` has every word
healed  how what was lost came back; everything is compared with the other region before a cell passes
s       seconds from the start of the harmed node to everything being whole
503     answers to acknowledged orders that were not available meanwhile; one 404 and the cell fails
harmless: nothing said and nothing lost, for the bytes were of no use any more (what an engine has written anew elsewhere,
room that was taken ahead), or the harm was made good by what every beat writes before anybody looked";

/// Longest text in a column.
const CELL_CHARS_MAX: usize = 110;

fn short(texts: &[String]) -> String {
    let text = texts.join("; ");
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

pub(super) fn print(rows: &[Row], format: Format) -> Result<()> {
    if format == Format::Json {
        line(serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["engine", "target", "kind", "harmed", "said", "healed", "s", "503"]);
    for row in rows {
        let healed = row.failed.as_ref().map_or_else(|| short(&row.healed), |why| format!("NOT: {why}"));
        table.add_row([
            row.engine.to_owned(),
            row.target.to_owned(),
            row.kind.to_owned(),
            row.harmed.clone(),
            short(&row.said),
            healed,
            format!("{:.1}", row.heal_s),
            row.unavailable.to_string(),
        ]);
    }
    line(table);
    line(format_args!("\n{LEGEND}"));
    let harmless = rows.iter().filter(|row| row.passed() && row.said == [HARMLESS]).count();
    let controls = rows.iter().filter(|row| row.passed() && row.kind == Kind::Control.as_str()).count();
    let failed = rows.iter().filter(|row| !row.passed()).count();
    line(format_args!(
        "{} cells: {} named and healed, {harmless} harmless, {controls} unharmed to compare with, {failed} silent or not healed",
        rows.len(),
        rows.len() - harmless - controls - failed
    ));
    Ok(())
}
