-- Rows of the queue are updated a few times and then lie still: room for updates in place, and a vacuum that comes
-- by the number of rows changed rather than by the size of the history.
alter table apalis.jobs set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
