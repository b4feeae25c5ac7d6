//! What a tenant has spent on language models.

use async_trait::async_trait;
use chrono::{Datelike, NaiveDate};
use sqlx::Row;

use super::SqliteWork;
use crate::domain::spend::{Budget, ModelRole, Nanos};
use crate::store::Result;
use crate::store::spend::{Booking, Spend, Spent};

#[async_trait]
impl Spend for SqliteWork {
    async fn reserve(&mut self, booking: &Booking, budget: &Budget) -> Result<Option<Spent>> {
        let (eval, architect) = booking.by_role(booking.amount);
        // The first amount of a day meets no row whose condition could refuse it: it has the condition, too.
        let query = sqlx::query(
            "insert into model_spend (tenant_id, day, eval, architect) select $1, $2, $3, $4 \
             where $3 + $4 <= $5 and $3 <= $6 and $4 <= $7 \
             on conflict (tenant_id, day) do update set \
             eval = model_spend.eval + excluded.eval, architect = model_spend.architect + excluded.architect \
             where model_spend.eval + excluded.eval + model_spend.architect + excluded.architect <= $5 \
             and ($3 = 0 or model_spend.eval + $3 <= $6) and ($4 = 0 or model_spend.architect + $4 <= $7)",
        );
        let query = query
            .bind(self.scope.tenant().to_owned())
            .bind(day_number(booking.day))
            .bind(eval)
            .bind(architect)
            .bind(budget.total.0)
            .bind(budget.of_role(ModelRole::Eval).0)
            .bind(budget.of_role(ModelRole::Architect).0);
        if query.execute(self.connection().await?).await?.rows_affected() > 0 {
            return Ok(None);
        }
        Spend::of_day(self, booking.day).await.map(Some)
    }

    async fn settle(&mut self, booking: &Booking, spent: Nanos) -> Result<()> {
        let (eval, architect) = booking.by_role(Nanos(spent.0 - booking.amount.0));
        let query = sqlx::query(
            "update model_spend set eval = eval + $3, architect = architect + $4 \
             where tenant_id = $1 and day = $2",
        );
        let query = query.bind(self.scope.tenant().to_owned()).bind(day_number(booking.day)).bind(eval).bind(architect);
        query.execute(self.connection().await?).await?;
        Ok(())
    }

    async fn of_day(&mut self, day: NaiveDate) -> Result<Spent> {
        let query = sqlx::query("select eval, architect from model_spend where tenant_id = $1 and day = $2");
        let query = query.bind(self.scope.tenant().to_owned()).bind(day_number(day));
        let Some(row) = query.fetch_optional(self.connection().await?).await? else { return Ok(Spent::default()) };
        Ok(Spent { eval: Nanos(row.try_get(0)?), architect: Nanos(row.try_get(1)?) })
    }
}

/// Days since the first of January of the year 1.
fn day_number(day: NaiveDate) -> i64 {
    day.num_days_from_ce().into()
}
