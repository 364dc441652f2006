# Only for the tests: what docker/compose.yaml needs of the official image of PostgreSQL.
FROM scratch
ADD debian.tar /
COPY postgres-entrypoint.sh /usr/local/bin/
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PGDATA=/var/lib/postgresql/data
RUN mkdir -p "$PGDATA" /run/postgresql && chown postgres "$PGDATA" /run/postgresql
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["tini", "--", "sh", "/usr/local/bin/postgres-entrypoint.sh"]
