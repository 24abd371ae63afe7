//! `odgm config`: every setting of a node.

use odgm_api::config::{self, Effect};
use serde::Serialize;

use super::{
    client::Context,
    error::Error,
    output::{Cell, Human, Style, Table, Tint},
};

/// Help below the options.
pub(crate) const HELP: &str = "\
Shows what `odgm serve` would run with in this environment. The exit code is 2 if it would refuse.

Examples:
  odgm config
  ODGM_HTTP_PORT=9000 odgm config --json | jq '.settings[] | select(.is_set)'";

/// `odgm config`.
pub(crate) fn run(context: &mut Context) -> Result<(), Error> {
    let settings: Vec<_> = config::settings().into_iter().map(SettingRow::from).collect();
    let problem = settings.iter().find_map(|setting| setting.problem.clone());
    let unknown = config::unknown_names();
    context.output.document(&Settings { settings, unknown })?;
    problem.map_or(Ok(()), |problem| Err(Error::Usage(problem)))
}

#[derive(Debug, Serialize)]
struct Settings {
    settings: Vec<SettingRow>,
    /// Variables that look like settings but are none.
    unknown: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SettingRow {
    name: &'static str,
    value: String,
    default: &'static str,
    is_set: bool,
    meaning: &'static str,
    /// Why it has no effect in this build.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Why the node would refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl From<config::Current> for SettingRow {
    fn from(current: config::Current) -> Self {
        let setting = current.setting;
        let note = match setting.effect {
            Effect::Now => None,
            Effect::With(part) => Some(format!("no effect until this build has {part}")),
            Effect::None(reason) => Some(format!("no effect: {reason}")),
        };
        Self {
            name: setting.name,
            value: current.value,
            default: setting.default,
            is_set: current.is_set,
            meaning: setting.meaning,
            note,
            problem: current.problem.map(|problem| problem.to_string()),
        }
    }
}

impl Human for Settings {
    fn human(&self, style: Style) -> String {
        let mut table = Table::new(&["NAME", "VALUE", "DEFAULT", "MEANING"]);
        for setting in &self.settings {
            let value = match (&setting.problem, setting.is_set) {
                (Some(_), _) => Cell::from(setting.value.as_str()).tinted(Tint::Bad),
                (None, true) => Cell::from(setting.value.as_str()).tinted(Tint::Good),
                (None, false) => Cell::from(setting.value.as_str()).tinted(Tint::Faint),
            };
            let meaning = match &setting.note {
                Some(note) => format!("{} ({note})", setting.meaning),
                None => setting.meaning.to_owned(),
            };
            table.row(vec![setting.name.into(), value, setting.default.into(), meaning.into()]);
        }
        let mut text = table.render(style);
        for name in &self.unknown {
            text += &format!("{name} is set but is no setting of this build\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_a_table_that_marks_what_has_no_effect() {
        let row = |name, value: &str, default, meaning, note: Option<&str>| SettingRow {
            name,
            value: value.to_owned(),
            default,
            is_set: value != default,
            meaning,
            note: note.map(str::to_owned),
            problem: None,
        };
        let settings = Settings {
            settings: vec![
                row("ODGM_HTTP_PORT", "9000", "8080", "port to listen on", None),
                row(
                    "ODGM_MST_SYNC_EVENTS",
                    "false",
                    "false",
                    "publish more",
                    Some("no effect until this build has mst collections"),
                ),
            ],
            unknown: vec!["ODGM_HTP_PORT".to_owned()],
        };
        insta::assert_snapshot!(settings.human(Style::PLAIN), @"
        NAME                  VALUE  DEFAULT  MEANING
        ODGM_HTTP_PORT        9000   8080     port to listen on
        ODGM_MST_SYNC_EVENTS  false  false    publish more (no effect until this build has mst collections)
        ODGM_HTP_PORT is set but is no setting of this build
        ");
    }
}
