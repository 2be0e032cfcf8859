# One slim image, three commands: `gateway serve`, `jobs worker`, `jobs scheduler`.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/metaspo
COPY requirements/base.txt requirements/
RUN /opt/metaspo/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r requirements/base.txt
COPY pyproject.toml README.md LICENSE metaspo.py ./
COPY registry registry
COPY optimizer optimizer
COPY gateway gateway
COPY jobs jobs
COPY processes processes
# The product is plain Python: copying it is the whole build, and needs no build backend from the network.
RUN cp -r metaspo.py registry optimizer gateway jobs processes /opt/metaspo/lib/python3.11/site-packages/ \
    && printf '#!/opt/metaspo/bin/python\nimport sys\nfrom metaspo import main\nsys.exit(main())\n' > /opt/metaspo/bin/metaspo \
    && chmod 755 /opt/metaspo/bin/metaspo \
    && /opt/metaspo/bin/python -m compileall -q /opt/metaspo/lib/python3.11/site-packages

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 metaspo && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/metaspo metaspo \
    && install -d -o metaspo -g metaspo /var/lib/metaspo /var/lib/metaspo/keys
COPY --from=build /opt/metaspo /opt/metaspo
ENV PATH=/opt/metaspo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    METASPO_HOME=/var/lib/metaspo METASPO_CONFIG=/etc/metaspo/metaspo.yaml
USER 10001:10001
WORKDIR /var/lib/metaspo
VOLUME /var/lib/metaspo
EXPOSE 8080
ENTRYPOINT ["metaspo"]
CMD ["gateway", "serve"]
