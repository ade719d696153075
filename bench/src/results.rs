//! `results.json`: a list of rows, a few dozen KB: it is kept in the repository. So its numbers have four digits that count, which is
//! more than a turn repeats.

use std::path::Path;

use serde::{Serialize, Serializer};

use crate::case::Case;
use crate::error::{Context, Error, Result};
use crate::measure::Runs;
use crate::metric::{Metric, median};
use crate::subject::Subject;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    #[serde(serialize_with = "by_name")]
    pub(crate) case: Case,
    pub(crate) subject: Subject,
    pub(crate) metric: Metric,
    /// The median of `runs`.
    pub(crate) value: f64,
    /// How many times better than Envoy's, above 1 is better, whatever the metric; `null` where there is nothing to compare.
    pub(crate) ratio_vs_envoy: Option<f64>,
    /// What each repeat gave, in their order.
    pub(crate) runs: Vec<f64>,
}

fn by_name<S: Serializer>(case: &Case, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(case.name())
}

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// The rows of a case.
    pub(crate) fn of(case: Case, runs: &Runs) -> Vec<Self> {
        let row = |(&(subject, metric), values): (&(Subject, Metric), &Vec<f64>)| Self {
            case,
            subject,
            metric,
            value: median(values),
            ratio_vs_envoy: runs.get(&(subject.reference(), metric)).and_then(|envoy| ratio(metric, values, envoy)),
            runs: values.clone(),
        };
        runs.iter().map(row).collect()
    }

    /// As it is written.
    fn rounded(&self) -> Self {
        Self {
            value: rounded(self.value),
            ratio_vs_envoy: self.ratio_vs_envoy.map(rounded),
            runs: self.runs.iter().copied().map(rounded).collect(),
            ..*self
        }
    }
}

/// How many times better than Envoy's: the median of what each round gave, since the machine's mood of the moment is in both figures
/// of a round. Where a round has no ratio, or one has not had its turn in each, the ratio of the medians; so too for added latency,
/// which is taken within a round already, and may be next to nothing in one.
fn ratio(metric: Metric, values: &[f64], envoy: &[f64]) -> Option<f64> {
    let are_pairs = values.len() == envoy.len() && !matches!(metric, Metric::AddedP50 | Metric::AddedP99);
    let rounds: Option<Vec<f64>> = if are_pairs {
        values.iter().zip(envoy).map(|(value, envoy)| metric.times_better(*value, *envoy)).collect()
    } else {
        None
    };
    match rounds {
        Some(rounds) => Some(median(&rounds)),
        None => metric.times_better(median(values), median(envoy)),
    }
}

/// To four digits that count.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

impl Results {
    /// Writes them.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| serde_json::to_string(&row.rounded()))
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::Machine(format!("writing the results: {error}")))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).context(|| format!("creating {}", folder.display()))?;
        }
        // One row a line: for people and for diff.
        let text = format!("[\n  {}\n]\n", rows.join(",\n  "));
        std::fs::write(path, text).context(|| format!("writing {}", path.display()))
    }

    /// The figure, if it was measured.
    pub(crate) fn get(&self, case: Case, subject: Subject, metric: Metric) -> Option<&Row> {
        self.rows.iter().find(|row| row.case == case && row.subject == subject && row.metric == metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Unit;
    use crate::subject::{ENVOY, Family, NO_PROXY, Variant, WEFT};

    #[test]
    fn a_row_has_the_median_and_compares_with_the_envoy_of_its_kind() {
        let hybrid = |family| Subject::with(family, Variant::Hybrid);
        let cpu = Metric::Cpu(Unit::Handshake);
        let runs = Runs::from([
            ((NO_PROXY, Metric::Rate(Unit::Handshake)), vec![9.0]),
            ((WEFT, cpu), vec![100.0, 300.0, 200.0]),
            ((ENVOY, cpu), vec![300.0]),
            ((hybrid(Family::Weft), cpu), vec![400.0]),
            ((hybrid(Family::Envoy), cpu), vec![440.0]),
        ]);
        let results = Results { rows: Row::of(Case::MtlsHandshake, &runs) };
        let ratio = |subject| results.get(Case::MtlsHandshake, subject, cpu).unwrap().ratio_vs_envoy;
        assert_eq!(results.get(Case::MtlsHandshake, WEFT, cpu).unwrap().value, 200.0);
        assert_eq!((ratio(WEFT), ratio(hybrid(Family::Weft)), ratio(ENVOY)), (Some(1.5), Some(1.1), Some(1.0)));
        let json: serde_json::Value = serde_json::to_value(&results).unwrap();
        assert_eq!(json[0]["case"], "mtls-handshake");
        assert!(json[0]["ratio_vs_envoy"].is_null(), "{json}");
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_where_both_were_in_each() {
        let cpu = Metric::Cpu(Unit::Request);
        // Rounds were slow ones for both alike, but the medians, 30 and 40, are not of the same round.
        let (weft, envoy): (&[f64], &[f64]) = (&[10.0, 10.0, 30.0, 50.0, 60.0], &[20.0, 20.0, 40.0, 100.0, 120.0]);
        for (what, metric, values, envoy, expected) in [
            ("in each round", cpu, weft, envoy, Some(2.0)),
            ("added latency", Metric::AddedP99, weft, envoy, Some(40.0 / 30.0)),
            ("not in each", cpu, &weft[..4], envoy, Some(2.0)),
            ("nothing in a round", Metric::RssPerConnection, &[0.0, 10.0, 20.0], &[10.0, 30.0, 50.0], Some(3.0)),
            ("neither way is better", Metric::CoreUse, weft, envoy, None),
        ] {
            assert_eq!(ratio(metric, values, envoy), expected, "{what}");
        }
    }

    #[test]
    fn written_numbers_have_four_digits_that_count() {
        for (value, expected) in
            [(51_038.4, 51_040.0), (18.946_7, 18.95), (0.163_249, 0.1632), (-2.345_67, -2.346), (0.0, 0.0), (7.0, 7.0)]
        {
            assert_eq!(rounded(value), expected, "{value}");
        }
        let runs = Runs::from([((WEFT, Metric::Cpu(Unit::Request)), vec![1.234_56, 2.345_67])]);
        let row = Row::of(Case::H1, &runs)[0].rounded();
        assert_eq!((row.value, row.runs), (1.79, vec![1.235, 2.346]));
    }
}
