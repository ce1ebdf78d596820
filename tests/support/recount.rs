//! The totals in ClickHouse against a recount of the rows.

use super::clickhouse::ClickHouse;

/// Where the totals are not what a recount of the rows says; nothing where they are. `None` when the server does not answer.
pub fn try_differences(server: &ClickHouse) -> Option<String> {
    server.try_ask(&question())
}

/// The same of a server that answers.
pub fn differences(server: &ClickHouse) -> String {
    server.ask(&question())
}

fn question() -> String {
    let recounts = [
        ("clicks_by_link", "link", "link"),
        ("clicks_by_tag", "tag", "arrayJoin(arrayDistinct(tags))"),
        ("clicks_by_campaign", "campaign", "utm_campaign"),
        ("clicks_by_day", "''", "''"),
    ];
    let differences = recounts.map(|(table, column, of)| {
        format!(
            "SELECT '{table}' AS of, k, day, sum(n) AS clicks_more, sum(m) AS bots_more FROM \
             (SELECT {column} AS k, day, toInt64(clicks) AS n, toInt64(bots) AS m FROM c.{table} \
             UNION ALL SELECT {of} AS k, toDate(ts) AS day, -toInt64(bot = '') AS n, -toInt64(bot != '') AS m FROM c.clicks) \
             GROUP BY k, day HAVING clicks_more != 0 OR bots_more != 0"
        )
    });
    differences.join(" UNION ALL ")
}
