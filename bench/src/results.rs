//! `results.json`: a list of rows.

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
    /// What each repeat gave.
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
        let value = |subject, metric| runs.get(&(subject, metric)).map(|values| median(values));
        let row = |(&(subject, metric), values): (&(Subject, Metric), &Vec<f64>)| Self {
            case,
            subject,
            metric,
            value: median(values),
            ratio_vs_envoy: value(subject.reference(), metric)
                .and_then(|envoy| metric.times_better(median(values), envoy)),
            runs: values.clone(),
        };
        runs.iter().map(row).collect()
    }
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
            .map(serde_json::to_string)
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
}
